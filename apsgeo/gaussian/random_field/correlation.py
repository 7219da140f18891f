"""The Matern correlation of any smoothness, from a table, differentiable in both arguments."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline
from scipy.special import gamma, kv
from torch import Tensor

__all__ = ["matern"]

_ENTRIES, _EVERY = 4097, 8
_LEAST, _MOST = np.log(1e-4), np.log(30.0)  # of distance over range; beyond, one and zero
_STEP = (_MOST - _LEAST) / (_ENTRIES - 1)
_TINY = 1e-15  # is zero: numbers near the least that single precision holds are slow
_CHANGE = 1e-3  # of the smoothness, for the difference quotient

Array = NDArray[np.float64]


def _correlation(ratio: Array, smoothness: float) -> Array:
    h = np.sqrt(8.0 * smoothness) * ratio
    return 2.0 ** (1.0 - smoothness) / gamma(smoothness) * h**smoothness * kv(smoothness, h)


_PLACES = np.linspace(_LEAST, _MOST, _ENTRIES)
_KNOTS = _PLACES[::_EVERY]


def _slope(ratio: Array, smoothness: float) -> Array:
    """Return the slope of the correlation by log ratio."""
    h = np.sqrt(8.0 * smoothness) * ratio
    scale = 2.0 ** (1.0 - smoothness) / gamma(smoothness)
    return -scale * h ** (smoothness + 1.0) * kv(smoothness - 1.0, h)


def _table(values: Array) -> Tensor:
    return torch.from_numpy(np.where(np.abs(values) < _TINY, 0.0, values)).float()


@lru_cache(maxsize=16)
def _values(smoothness: float) -> Tensor:
    """Return the correlation at each entry, from a spline through a part of them."""
    ratio = np.exp(_KNOTS)
    knots = _correlation(ratio, smoothness), _slope(ratio, smoothness)
    return _table(CubicHermiteSpline(_KNOTS, *knots)(_PLACES))


def _slopes(smoothness: float) -> tuple[Tensor, Tensor]:
    """Return the slopes of the correlation at each entry by log ratio and by smoothness."""
    ratio = np.exp(_KNOTS)
    above, below = (_correlation(ratio, smoothness + sign * _CHANGE) for sign in (1.0, -1.0))
    both = _slope(ratio, smoothness), (above - below) / (2.0 * _CHANGE)
    first, second = (_table(np.interp(_PLACES, _KNOTS, knots)) for knots in both)
    return first, second


class _Matern(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ratio: Tensor, smoothness: Tensor) -> Tensor:
        table = _values(float(smoothness)).to(ratio.device)
        place = ratio.clamp(min=1e-30).log_().sub_(_LEAST).div_(_STEP)
        place.clamp_(0.0, _ENTRIES - 1.001)
        lower = place.to(torch.int32).flatten()
        part = place - lower.view_as(place)
        out = _at(table, lower, part)
        out.masked_fill_(ratio <= float(np.exp(_LEAST)), 1.0)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(ratio, lower, part, smoothness)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        ratio, lower, part, smoothness = ctx.saved_tensors
        slope, change = (each.to(ratio.device) for each in _slopes(float(smoothness)))
        far = ratio > float(np.exp(_LEAST))
        by_ratio = torch.where(far, _at(slope, lower, part) / ratio.clamp(min=1e-30), 0.0)
        by_smoothness = (grads[0] * torch.where(far, _at(change, lower, part), 0.0)).sum()
        return grads[0] * by_ratio, by_smoothness.to(smoothness)


def _at(table: Tensor, lower: Tensor, part: Tensor) -> Tensor:
    """Interpolate a table linearly; `lower` is flat, `part` of the shape of the result."""
    start = table.index_select(0, lower).view_as(part)
    rise = (table[1:] - table[:-1]).index_select(0, lower).view_as(part)
    return rise.mul_(part).add_(start)


def matern(ratio: Tensor, smoothness: Tensor) -> Tensor:
    r"""Return the Matern correlation 2^{1-nu} / Gamma(nu) h^nu K_nu(h), h = sqrt(8 nu) d / range.

    It is interpolated in a table of 4097 distances, to an error of about 1e-6.

    Args:
        ratio: Distance over range, float32; at one, the correlation is about 0.14.
        smoothness: nu, a number ().
    """
    return _Matern.apply(ratio, smoothness)
