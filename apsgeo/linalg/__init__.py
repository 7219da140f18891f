"""Sparse linear algebra on the nodes of a domain."""

from apsgeo.linalg.cholesky import Cholesky
from apsgeo.linalg.dissection import Dissection

__all__ = ["Cholesky", "Dissection"]
