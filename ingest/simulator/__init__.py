"""Us playing Plugsurfing: what it says, how it signs, what can go wrong on the way, and the sending itself."""
