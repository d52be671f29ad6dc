"""Who may do what in the dashboard: logins, roles, and what a browser may be tricked into."""
