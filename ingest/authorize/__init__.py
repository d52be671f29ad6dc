"""The authorization endpoint: Plugsurfing asks whether a key may charge, and a driver waits for the answer."""
