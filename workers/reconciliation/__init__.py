"""Poll sessions at the Drive API and merge what it returns, because events alone do not tell everything."""
