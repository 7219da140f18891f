"""Errors that observations share, such as a bias of an instrument: low-rank plus diagonal noise."""
