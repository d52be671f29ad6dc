"""The systemd units that are shipped, rendered for one machine."""
