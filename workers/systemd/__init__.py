"""Units for systemd, rendered for one machine."""
