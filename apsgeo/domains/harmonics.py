"""Real spherical harmonics at points of the sphere."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["harmonic_eigenbasis", "real_harmonics"]

Array = NDArray[np.float64]


def real_harmonics(points: Array, degree: int) -> Array:
    """Evaluate the real spherical harmonics, orthonormal on the sphere, up to a degree.

    By the recursion in the degree with fully normalized Legendre functions (Holmes &
    Featherstone 2002, *A unified approach to the Clenshaw summation*, equations 11 to 13).

    Args:
        points: Unit vectors `(N, 3)`.
        degree: The highest degree l.

    Returns:
        Values `(N, (degree + 1) ** 2)`: for each l in turn, the orders m = 0, then cos and sin of
        m = 1, 2, ..., l.
    """
    x, y, z = points.T
    azimuth = np.arctan2(y, x)
    sine = np.sqrt((x * x + y * y) / (x * x + y * y + z * z))
    out = np.empty((len(points), (degree + 1) ** 2))
    sectoral = np.full(len(points), np.sqrt(1 / (4 * np.pi)))
    for m in range(degree + 1):
        if m:
            sectoral = np.sqrt((2 * m + 1) / (2 * m)) * sine * sectoral
        cosine, sinus = np.cos(m * azimuth), np.sin(m * azimuth)
        before, legendre = np.zeros_like(z), sectoral
        for l in range(m, degree + 1):
            if l > m:
                step = np.sqrt((4 * l * l - 1) / (l * l - m * m))
                back = np.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)) if l > 1 else 0.0
                before, legendre = legendre, step * (z * legendre - back * before)
            if m == 0:
                out[:, l * l] = legendre
            else:
                out[:, l * l + 2 * m - 1] = np.sqrt(2) * legendre * cosine
                out[:, l * l + 2 * m] = np.sqrt(2) * legendre * sinus
    return out


def harmonic_eigenbasis(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return l (l + 1) `(k,)`, ascending, and the first `k` real harmonics `(N, k)` at points."""
    degree = np.floor(np.sqrt(np.arange(k)))
    harmonics = real_harmonics(points.numpy(), math.isqrt(k - 1))[:, :k]
    return torch.from_numpy(degree * (degree + 1)), torch.from_numpy(harmonics)
