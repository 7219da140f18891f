"""What many tests draw from: random numbers whose seed a developer can shift, and small fields."""

import os

import numpy as np
import torch

__all__ = ["numpy_seeded", "seed_weights", "seeded"]

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
