"""Poll sessions at the Drive API and merge what it returns, as events may be skipped or sent in a downtime."""
