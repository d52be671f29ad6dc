"""The durable inbox: deliveries kept in SQLite until they are settled, and the quarantine beside them."""
