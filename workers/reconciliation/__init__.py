"""Re-reads sessions from the Drive API and merges what it says."""
