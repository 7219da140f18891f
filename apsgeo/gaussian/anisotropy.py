"""What a history says about how far fields reach across each face: local, anisotropic ranges."""

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
    r"""Return how far fields (time, channel, node) reach across each face, from the history.

    Of adjoining cells i and j of `Domain.reduced`, at a distance l, whose values z are scaled to
    unit variance, it is l^2 / E (z_i - z_j)^2: the square of a correlation length in the direction
    of the face's normal. By such factors of the conductances the range of a Matern field follows
    place and direction (Fuglstad et al. 2015, https://doi.org/10.5705/ss.2013.106w).

    Returns:
        (face,), relative to the geometric mean by area; one where a cell never varies, and
        everywhere if conductances are negative (at obtuse triangles of a mesh): the stiffness
        would not stay positive semi-definite.
    """
    cells = domain.reduced
    faces = _faces(cells.stiffness)
    start, end = faces.coords
    if (faces.data > 0.0).any():
        return np.ones(len(start))
    rows = fields.flatten(0, 1)
    means = (cells.spread / cells.spread.sum(axis=0)[None, :]).T.tocsr()
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
