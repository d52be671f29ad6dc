"""The lane in which a question at the charger is answered while the other side waits: its server and its door."""
