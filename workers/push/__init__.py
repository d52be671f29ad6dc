"""How a push leaves the house: one file a channel, all behind the same small protocol."""
