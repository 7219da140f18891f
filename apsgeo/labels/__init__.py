"""Labelled data in and out: what xarray knows, and tensors do not."""
