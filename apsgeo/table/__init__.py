"""Observations in tables: one value a row, at its own time and place."""
