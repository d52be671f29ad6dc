"""The durable inbox: deliveries in SQLite until they are settled, and the quarantine beside them."""
