"""The clock: periodic tasks, and the sender of pushes."""
