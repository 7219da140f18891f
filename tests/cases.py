"""What many tests draw from: random numbers whose seed a developer can shift, and small fields."""

import os

import numpy as np
import torch
from torch import Tensor

__all__ = ["numpy_seeded", "rounding", "seed_weights", "seeded"]

SHIFT = 1000 * int(os.environ.get("APSGEO_TEST_SEED", "0"))


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator of torch's; `APSGEO_TEST_SEED` shifts the seeds of all of them."""
    return torch.Generator().manual_seed(seed + SHIFT)


def numpy_seeded(seed: int = 0) -> np.random.Generator:
    """Return a generator of numpy's; `APSGEO_TEST_SEED` shifts the seeds of all of them."""
    return np.random.default_rng(seed + SHIFT)


def seed_weights(seed: int = 0) -> None:
    """Seed torch's global generator, from which layers draw their first weights."""
    torch.manual_seed(seed + SHIFT)


def rounding(terms: int, scale: float | Tensor = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """Bound the error of so many roundings, in any order, of numbers of up to a size.

    A rounding errs by at most half of eps, and a sum of n terms by n - 1 of them (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, eq. 4.4); the other half is for two such sums
    that are compared. It holds on every processor, whatever its kernels add up first.

    Args:
        terms: Number of roundings that a result went through.
        scale: What they were of: a number, or a tensor whose largest magnitude it is.
        dtype: That of the arithmetic.
    """
    size = float(scale.detach().abs().max()) if isinstance(scale, Tensor) else scale
    return terms * torch.finfo(dtype).eps * size
