"""Grids of latitude and longitude."""
