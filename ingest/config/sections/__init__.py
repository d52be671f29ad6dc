"""The settings by subject; the docstring of each class is its heading in `workers/REFERENCE.md`."""
