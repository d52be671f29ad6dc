"""The small kit that plugins are built with."""
