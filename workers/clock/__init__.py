"""The process type `clock`: recovery of runs, periodic tasks, and the push sender."""
