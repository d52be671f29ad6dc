"""Benches: speed on this machine, side by side with baselines."""
