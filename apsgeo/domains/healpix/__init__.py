"""Pixels of equal area on the sphere."""
