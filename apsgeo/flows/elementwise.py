"""Monotone maps of single numbers, the parts of couplings.

A map has `count` raw parameters for each number, and is the identity where all of them are zero
(the spline up to rounding). Numbers and parameters may have any shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from apsgeo.errors import InputError

__all__ = ["AFFINE", "Affine", "Elementwise", "Spline", "elementwise"]


class Elementwise(Protocol):
    """A family of increasing maps of the real line onto itself."""

    @property
    def count(self) -> int:
        """Number of raw parameters of one map."""
        ...

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (...) with parameters (..., count); return y and log dy/dx, each (...)."""
        ...

    def inverse(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return the x that `forward` maps to y, and log dy/dx there, each (...)."""
        ...


@dataclass(frozen=True)
class Affine:
    """y = shift + exp(s) x, with s bounded in size.

    Attributes:
        limit: Bound of s: no map stretches by more than exp(limit).
    """

    limit: float = 2.0
    count: ClassVar[int] = 2

    def _bounded(self, raw: Tensor) -> Tensor:
        return self.limit * torch.tanh(raw / self.limit)

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (...) with parameters (..., 2); return y and s."""
        shift, log_scale = raw[..., 0], self._bounded(raw[..., 1])
        return shift + log_scale.exp() * x, log_scale

    def inverse(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return (y - shift) exp(-s) and s."""
        shift, log_scale = raw[..., 0], self._bounded(raw[..., 1])
        return (y - shift) * (-log_scale).exp(), log_scale


AFFINE = Affine()


@dataclass(frozen=True)
class Spline:
    """A monotone rational-quadratic spline, then an affine map.

    The spline has its bins on [-bound, bound], and is the identity outside (Durkan et al. 2019,
    *Neural spline flows*, arXiv 1906.04032). It can split one mode into several.

    Attributes:
        bins: Number of pieces, at least two.
        bound: End of the range that the spline bends, in the units of x.
        limit: Bound of the log of the affine map's slope.

    Raises:
        InputError: If there are fewer than two bins, or the bound is not above zero.
    """

    bins: int = 8
    bound: float = 5.0
    limit: float = 2.0

    def __post_init__(self) -> None:
        if self.bins < 2 or self.bound <= 0.0:
            raise InputError(
                f"Spline(bins={self.bins}, bound={self.bound}): give at least 2 bins and a bound "
                "above zero."
            )

    @property
    def count(self) -> int:
        """Number of widths and heights of bins, slopes between them, shift and log slope."""
        return 3 * self.bins + 1

    def _spline(self, raw: Tensor) -> Any:
        from zuko.transforms import MonotonicRQSTransform

        widths, heights, slopes = raw[..., 2:].split([self.bins, self.bins, self.bins - 1], -1)
        return MonotonicRQSTransform(widths, heights, slopes, bound=self.bound)

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (...) with parameters (..., 3 bins + 1); return y and log dy/dx."""
        bent, log_slope = self._spline(raw).call_and_ladj(x)
        y, log_scale = Affine(self.limit).forward(bent, raw)
        return y, log_slope + log_scale

    def inverse(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return the x that `forward` maps to y, and log dy/dx there."""
        bent, log_scale = Affine(self.limit).inverse(y, raw)
        spline = self._spline(raw)
        x = spline.inv(bent)
        return x, spline.call_and_ladj(x)[1] + log_scale


def elementwise(name: str, bins: int) -> Elementwise:
    """Return the family named "affine", or "spline" with so many bins.

    Raises:
        InputError: If there is no family of that name.
    """
    if name == "affine":
        return Affine()
    if name == "spline":
        return Spline(bins)
    raise InputError(f"elementwise={name!r}; choose 'affine' or 'spline'.")
