"""What tests share: random inputs whose seeds a developer can shift, tolerances, histories."""

import os
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

__all__ = [
    "alike",
    "history",
    "monthly",
    "noise",
    "numpy_seeded",
    "rounding",
    "seed_weights",
    "seeded",
]

SHIFT = 1000 * int(os.environ.get("APSGEO_TEST_SEED", "0"))


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator of torch's; `APSGEO_TEST_SEED` shifts the seeds of all of them."""
    return torch.Generator().manual_seed(seed + SHIFT)


def numpy_seeded(seed: int = 0) -> np.random.Generator:
    """Return a generator of numpy's; `APSGEO_TEST_SEED` shifts the seeds of all of them."""
    return np.random.default_rng(seed + SHIFT)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normal numbers in float64."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def seed_weights(seed: int = 0) -> None:
    """Seed torch's global generator, from which layers draw their first weights."""
    torch.manual_seed(seed + SHIFT)


def rounding(terms: int, scale: Any = 1.0) -> float:
    """Bound the error of so many roundings to float32, in any order, of numbers of up to a size.

    A rounding errs by at most half of eps, and a sum of n terms by n - 1 of them (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, eq. 4.4); the other half is for two such sums
    that are compared. It holds on every processor, whatever its kernels add up first.

    Args:
        terms: Number of roundings that a result went through.
        scale: What they were of: a number, or an array whose largest magnitude counts.
    """
    values = scale.detach() if isinstance(scale, Tensor) else torch.as_tensor(np.asarray(scale))
    return terms * torch.finfo(torch.float32).eps * float(values.abs().max())


def alike(found: Any, expected: Any, terms: int = 64) -> None:
    """Assert that numbers computed twice, in another order, batch or layout, differ by rounding.

    Args:
        found: Tensor, array or number, in which a NaN is where it is in the other.
        expected: Likewise, of the same shape and precision. The labels of two labelled arrays are
            equal.
        terms: Number of roundings, of numbers as large as the largest, that a result went through.
    """
    if isinstance(found, xr.DataArray) and isinstance(expected, xr.DataArray):
        assert found.dims == expected.dims
        xr.testing.assert_equal(found.coords.to_dataset(), expected.coords.to_dataset())
    first, second = (
        each.detach() if isinstance(each, Tensor) else torch.as_tensor(np.asarray(each))
        for each in (found, expected)
    )
    scale = torch.nan_to_num(second).abs().max() if second.numel() else 0.0
    bound = terms * torch.finfo(second.dtype).eps * float(scale)
    torch.testing.assert_close(first, second, rtol=0, atol=bound, equal_nan=True)


def monthly(values: np.ndarray, lat: np.ndarray, lon: np.ndarray, units: str) -> xr.DataArray:
    """Label (time, lat, lon) values as temperatures of months from January 1990, in float32."""
    coords = {"time": xr.date_range("1990-01-01", periods=len(values), freq="MS")}
    coords |= {"lat": lat, "lon": lon}
    return xr.DataArray(
        values.astype("float32"), coords, ("time", "lat", "lon"), "air", {"units": units}
    )


def history(years: int) -> xr.DataArray:
    """Make smooth monthly fields in degC on 6 x 10 nodes; mean and spread follow the season."""
    lat, lon, rng = np.linspace(75, -75, 6), np.arange(0, 360, 36.0), numpy_seeded(0)
    waves = [np.cos(np.deg2rad(k * lon)) * np.cos(np.deg2rad(lat))[:, None] for k in (1, 2)]
    season = np.cos(np.tile(np.arange(1, 13), years) * np.pi / 6)[:, None, None]
    amplitude = rng.standard_normal((len(season), 2)) * (1.5 + season[:, 0])
    values = 15 + 10 * season + np.einsum("tk,kij->tij", amplitude, np.stack(waves))
    return monthly(values + 0.3 * rng.standard_normal(values.shape), lat, lon, "degC")
