"""Distill a prior into an amortized posterior."""
