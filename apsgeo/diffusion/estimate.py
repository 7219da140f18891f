"""A Monte Carlo estimate of a log-density."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

__all__ = ["Estimate"]


class Estimate(NamedTuple):
    """A Monte Carlo estimate (batch,) and its standard error (batch,), NaN from a single pass."""

    value: Tensor
    standard_error: Tensor

    @classmethod
    def of(cls, passes: Tensor) -> Self:
        """Return the mean over independent passes (pass, batch), with its standard error."""
        one = passes.detach()
        std = one.std(0) if len(one) > 1 else torch.full_like(one[0], math.nan)
        return cls(passes.mean(0), std / math.sqrt(len(one)))
