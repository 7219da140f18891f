"""Labelled data in and out: all that xarray knows of an array, and tensors do not."""
