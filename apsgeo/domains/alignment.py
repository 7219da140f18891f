"""Eigenfunctions of one resolution, found again at another."""

import numpy as np
import scipy.spatial
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError

__all__ = ["aligned"]

Array = NDArray[np.float64]

_NEAREST = 4
_LEAST_OVERLAP = 0.5


def aligned(functions: Tensor, source: Domain, target: Domain) -> Tensor:
    r"""Find eigenfunctions of one domain again on another one of the same surface.

    Eigenfunctions are computed up to a sign, and up to a rotation if eigenvalues are equal or
    close; signs and rotations differ between resolutions. Let `F` be the given functions,
    interpolated to the target's nodes, and `V` the target's `2 k` smoothest eigenfunctions. The
    result is the `V R` closest to `F` whose `R` has orthonormal columns. That `R` is the polar
    factor of :math:`V^T \mathrm{diag}(a) F` (the orthogonal Procrustes problem; Schönemann 1966).
    The difference that remains is that of the two discrete Laplacians.

    Args:
        functions: Eigenfunctions `(N, k)` on the source, with mean squares (by area) of one.
        source: The domain that they are known on.
        target: The same surface in the same coordinates, with other nodes.

    Returns:
        The functions `(M, k)` on the target, orthogonal by area, with mean squares of one.

    Raises:
        InputError: If the domains are of different kinds or dimensions, the target has fewer than
            `k` nodes, or some function has an overlap below 0.5 with what the target resolves.
    """
    count = functions.shape[1]
    where = source.positions.numpy(), target.positions.numpy()
    if source.kind != target.kind or where[0].shape[1] != where[1].shape[1]:
        raise InputError(f"{target!r} is not of the kind of {source!r}; give the same surface.")
    if target.num_nodes < count:
        raise InputError(f"{target!r} cannot tell {count} eigenfunctions apart; give more nodes.")
    areas = target.areas.numpy() / target.areas.sum().item()
    basis = target.eigenbasis(min(2 * count, target.num_nodes))[1].numpy()
    basis = basis * np.sqrt(target.areas.sum().item())
    there = _interpolated(functions.double().numpy(), *where)
    left, overlap, right = np.linalg.svd(basis.T @ (areas[:, None] * there), full_matrices=False)
    if overlap[-1] < _LEAST_OVERLAP:
        raise InputError(
            f"the {count} eigenfunctions of {source!r} are not those of {target!r}: the least "
            f"overlap is {overlap[-1]:.2f}, and {_LEAST_OVERLAP} is needed. Give the same surface "
            "in the same coordinates, at a resolution that has them."
        )
    return torch.from_numpy(basis @ (left @ right))


def _interpolated(values: Array, start: Array, end: Array) -> Array:
    """Interpolate values `(N, k)` by the inverse squared distance of the nearest nodes."""
    nearest = np.arange(min(_NEAREST, len(start))) + 1
    distance, node = scipy.spatial.cKDTree(start).query(end, nearest)
    # a node at the very place outweighs all others
    weight = 1.0 / np.maximum(distance, 1e-12 * np.ptp(start)) ** 2
    weight /= weight.sum(1, keepdims=True)
    return np.einsum("mn,mnk->mk", weight, values[node])
