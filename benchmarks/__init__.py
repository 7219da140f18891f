"""Committed commands that made the committed tables in `results/`."""
