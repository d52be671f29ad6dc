"""What arrived, how we know it is real, where it is kept, how it gets to Redis: the words of the wire."""
