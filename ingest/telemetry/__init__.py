"""What leaves the processes for those who watch them elsewhere: traces and reports of errors, if they are set."""
