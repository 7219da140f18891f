"""Pixels of an image."""
