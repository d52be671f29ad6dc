"""Lists: what a list shows and how it is found, described once for commands and the console."""
