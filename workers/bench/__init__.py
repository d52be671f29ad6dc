"""Measure this house side by side with its rivals, on the machine at hand."""
