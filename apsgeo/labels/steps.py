"""The times of records as numbers of steps, of the length that a history has."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apsgeo.labels.dates import Dates

__all__ = ["DAY", "step_days", "time_in_steps"]

DAY = 86_400_000_000  # microseconds


def step_days(dates: Dates) -> float | None:
    """Return the usual step between records in days; None without dates or for a single record."""
    if not dates.known or len(dates) < 2:
        return None
    return float(np.median(np.abs(np.diff(dates.ticks)))) / DAY


def time_in_steps(dates: Dates, step: float | None) -> Tensor:
    """Return the time (record,) of records in steps of so many days since 1970, float64.

    It is their place where they have no dates, or the step is not known.
    """
    if step is None or not dates.known:
        return torch.arange(len(dates), dtype=torch.float64)
    return torch.from_numpy(dates.ticks.astype(np.float64) / (DAY * step))
