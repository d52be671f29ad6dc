"""The question at the charger: may this key charge here? Plugsurfing asks and waits, and a driver stands there."""
