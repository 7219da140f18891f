"""The times of records as numbers of steps, of the length that a history has."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apsgeo.errors import ShorterStepsWarning
from apsgeo.labels.dates import Dates

__all__ = ["DAY", "history_step_days", "step_days", "time_in_steps", "warn_of_shorter_steps"]

DAY = 86_400_000_000  # microseconds


def step_days(dates: Dates) -> float | None:
    """Return the usual step between records in days; None without dates or for a single record."""
    if not dates.known or len(dates) < 2:
        return None
    return float(np.median(np.abs(np.diff(dates.ticks)))) / DAY


def history_step_days(provenance: Mapping[str, Any]) -> float | None:
    """Return the mean days between the records that a prior learned from, if they had dates.

    Args:
        provenance: Record of how the prior was fitted.
    """
    try:
        first, last = (np.datetime64(each, "s") for each in provenance["learned_from"])
        return float((last - first) / np.timedelta64(1, "D")) / (provenance["records"] - 1)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def time_in_steps(dates: Dates, step: float | None) -> Tensor:
    """Return the time (record,) of records in steps of so many days since 1970, float64.

    It is their place where they have no dates, or the step is not known.
    """
    if step is None or not dates.known:
        return torch.arange(len(dates), dtype=torch.float64)
    return torch.from_numpy(dates.ticks.astype(np.float64) / (DAY * step))


def warn_of_shorter_steps(dates: Dates, known: float | None) -> None:
    """Warn of records that are closer in time than those of the history.

    A mean over a month varies less than that over a day, so a model of the one is wrong for the
    other. Records that are farther apart may be a choice of the same kind, such as all Januaries.

    Args:
        dates: Dates of the records.
        known: Days between the records of the history, or None if that is not known.

    Warns:
        ShorterStepsWarning: If steps are less than half as long.
    """
    steps = np.diff(np.unique(dates.ticks)) / DAY if dates.known else np.zeros(0)
    if known is None or not len(steps) or (own := float(np.median(steps))) >= 0.5 * known:
        return
    warnings.warn(
        f"{dates.given} has records {own:.3g} days apart, and the model learned from such "
        f"{known:.3g} days apart, which vary less, if they are means over that time: use a model "
        "of such records, or average these: .resample",
        ShorterStepsWarning,
        stacklevel=4,
    )
