"""Invertible conditional maps q(x | y), and what they start from."""
