"""Patterns that outlive a history: added to a Gaussian prior, for observations to decide."""
