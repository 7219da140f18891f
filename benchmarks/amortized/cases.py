"""The ways of measuring a month: random points, regions that are hidden, swaths, ships' tracks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo import datasets
from apsgeo.domains import LatLonDomain
from apsgeo.measurement import Measurement
from apsgeo.operators import Block, Swath
from apsgeo.protocol import NcepProtocol

__all__ = ["CASES", "observe", "ships"]

Index = NDArray[np.int64]

Masking = Callable[[LatLonDomain, int, torch.Generator], Tensor]

_BLOCK = 0.75  # observed share of the area around a hidden region
_SWATH = 0.15  # observed share of the area within swaths

CASES: dict[str, float | Masking] = {
    "0.5 %": 0.005,
    "1 %": 0.01,
    "5 %": 0.05,
    "30 %": 0.3,
    "80 %": 0.8,
    "block": lambda domain, month, generator: Block.at_density(Block(), domain, _BLOCK, generator),
    "swath": lambda domain, month, generator: Swath.at_density(Swath(), domain, _SWATH, generator),
    "ships": lambda domain, month, generator: ships(domain)[month],
}
"""Observed share of random points, or the mask (node,) of a domain and a month, by name."""


def observe(protocol: NcepProtocol, month: int, name: str, window: int = 0) -> Measurement:
    """Simulate the observations of a month; they depend on seed, month and case alone.

    With a window, as many months on either side are around it, observed alike.
    """
    case, last = CASES[name], len(protocol.values) - 1
    near = np.arange(month - window, month + window + 1).clip(0, last)
    months = np.unique(near)
    if isinstance(case, float):
        given = protocol.observe(months, case)
    else:
        found = [_measured(protocol, int(each), name, case) for each in months]
        values, mask = (np.stack(part) for part in zip(*found, strict=True))
        given = protocol.measured(months, values, mask)
    return given.among(torch.from_numpy(np.flatnonzero(months == month))) if window else given


def _measured(
    protocol: NcepProtocol, month: int, name: str, case: Masking
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the values (node,) of a month with noise, and where they are observed."""
    seed = [protocol.seed, int(protocol.key[month]) % 2**64, len(name), ord(name[0])]
    words = np.random.SeedSequence(seed).generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed(int(words[0]))
    mask = case(protocol.domain, int(protocol.season[month]), generator)
    noise = np.random.default_rng(seed).standard_normal(protocol.values.shape[1])
    values = (protocol.values[month] + protocol.noise_std * noise).astype(protocol.values.dtype)
    return values, mask.numpy()


@cache
def _sea_surface() -> NDArray[np.bool_]:
    """Return where COADS has a sea surface temperature (month, lat, lon), from 89 N on."""
    return datasets.load("coads").notnull().sortby("lat", ascending=False).values


def ships(domain: LatLonDomain) -> Tensor:
    """Return the nodes (month, node) whose nearest cell ships have measured, in the climatology."""
    measured = _sea_surface()
    rows = np.rint((89.0 - domain.lat) / 2.0).clip(0, 89).astype(int)
    columns = np.rint((domain.lon - 1.0) / 2.0).astype(int) % 180
    return torch.from_numpy(measured[:, rows[:, None], columns].reshape(len(measured), -1))
