"""The reach of fields across each face, from a history: local, anisotropic ranges."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.domains.edges import laplacian_of

__all__ = ["conducting", "face_reach"]

Array = NDArray[np.float64]

_MORE_RECORDS = 20  # as if so many had shown the mean slope at every face: short histories scatter
_BLOCK = 32  # records at a time


def _faces(stiffness: sp.csc_array) -> sp.coo_array:
    """Return the entries above the diagonal: one for each face, minus its conductance."""
    return sp.coo_array(sp.triu(stiffness, 1))


def face_reach(domain: Domain, fields: Tensor) -> Array:
    r"""Return the reach of fields (time, channel, node) across each face.

    Cells i and j of `Domain.reduced` adjoin with their centres l apart. With their values z scaled
    to unit variance, the reach is l^2 / E (z_i - z_j)^2, the square of a correlation length along
    the normal of their face. Conductances times these factors give a Matern field a range that
    follows place and direction (Fuglstad et al. 2015, https://doi.org/10.5705/ss.2013.106w).

    Returns:
        The reach (face,), divided by its geometric mean by area. It is one where a cell never
        varies, and everywhere if conductances are negative (at obtuse triangles of a mesh), where
        the stiffness would not stay positive semi-definite.
    """
    cells = domain.reduced
    faces = _faces(cells.stiffness)
    start, end = faces.coords
    if (faces.data > 0.0).any():
        return np.ones(len(start))
    rows = fields.flatten(0, 1)
    means = (cells.membership / cells.membership.sum(axis=0)[None, :]).T.tocsr()
    variance, squares = np.zeros(len(cells.areas)), np.zeros(len(start))
    blocks = [means @ block.double().numpy().T for block in rows.split(_BLOCK)]
    for values in blocks:
        variance += (values**2).sum(axis=1) / len(rows)
    varies = variance > 1e-6 * variance.mean()
    std = np.sqrt(np.where(varies, variance, 1.0))[:, None]
    for values in blocks:
        scaled = values / std
        squares += ((scaled[start] - scaled[end]) ** 2).sum(axis=1) / len(rows)
    distance = np.linalg.norm(cells.positions[start] - cells.positions[end], axis=1)
    known = varies[start] & varies[end] & (distance > 0)
    if not squares[known].any():
        return np.ones_like(squares)
    slope = squares[known] / distance[known] ** 2
    area = -faces.data[known] * distance[known] ** 2
    slope = (len(rows) * slope + _MORE_RECORDS * slope.mean()) / (len(rows) + _MORE_RECORDS)
    reach = np.ones_like(squares)
    reach[known] = np.exp(np.average(np.log(slope), weights=area)) / slope
    return reach


def conducting(stiffness: sp.csc_array, factor: Array) -> sp.csc_array:
    """Return the stiffness with each face's conductance times a factor (face,)."""
    faces = _faces(stiffness)
    start, end = faces.coords
    return laplacian_of(-faces.data * factor, start, end, len(stiffness.indptr) - 1)
