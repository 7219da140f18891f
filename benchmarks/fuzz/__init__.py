"""Damaged and hostile files, and what becomes of them."""
