"""Settings: parsed, checked and described before a process starts; secrets re-read while it runs."""
