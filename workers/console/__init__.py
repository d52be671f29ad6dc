"""The console: pages for support people, operators and developers, rendered on the server."""
