"""Alerts: rules that find what needs a person, and notifiers that send them."""
