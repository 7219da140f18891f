"""Conditional normalizing flows q(x | y), and the bases that they start from."""
