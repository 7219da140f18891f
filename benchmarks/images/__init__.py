"""Posteriors of images."""
