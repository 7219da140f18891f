"""mnist: handwritten digits."""
