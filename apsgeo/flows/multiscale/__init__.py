"""A flow from coarse to fine, on the domain's own hierarchy."""
