"""Sparse linear algebra on the nodes of a domain."""
