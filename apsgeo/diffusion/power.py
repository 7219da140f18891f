"""The power of samples in bands of scales, set to that of the data."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain

__all__ = ["BandGain", "band_edges"]

_FIRST_BAND = 25  # eigenfunctions, so that chance does not rule it
_GROWTH = 1.8  # of the number of eigenfunctions from band to band
_MOST = 1024  # eigenfunctions in closed form; half as many where they must be computed


def band_edges(eigenfunctions: int) -> list[int]:
    """Return where bands of so many eigenfunctions end: of 25, and each next of 1.8 times that.

    The last takes what is left, and there is none if there are fewer than 25.
    """
    edges, size = [0], float(_FIRST_BAND)
    while edges[-1] + round(size) <= eigenfunctions:
        edges.append(edges[-1] + round(size))
        size *= _GROWTH
    if len(edges) > 1:
        edges[-1] = eigenfunctions
    return edges[1:]


class BandGain(nn.Module):
    r"""Multiplies fields by a gain in each band of the Laplacian's eigenfunctions.

    x + sum_b (g_b - 1) P_b x, with P_b the projection on band b: what is finer than the bands is
    left alone. Gains are one until they are fitted.

    Args:
        domain: Domain that the fields live on.
        channels: Number of channels of the fields.
    """

    gain: Tensor
    band: Tensor
    areas: Tensor

    def __init__(self, domain: Domain, channels: int) -> None:
        super().__init__()
        self._domain = domain
        closed = domain.continuous_eigenbasis(1) is not None
        # up to waves of about four nodes
        edges = band_edges(min(domain.num_nodes // 4, _MOST if closed else _MOST // 2))
        sizes = torch.tensor([0, *edges]).diff()
        self.register_buffer("band", torch.arange(len(sizes)).repeat_interleave(sizes), False)
        self.register_buffer("areas", domain.areas.float(), False)
        self.register_buffer("gain", torch.ones(channels, len(edges)))

    @cached_property
    def _functions(self) -> Tensor:
        """The eigenfunctions (node, k), computed when they are first needed: it takes seconds."""
        count = len(self.band)
        basis = self._domain.continuous_eigenbasis(count) or self._domain.eigenbasis(count)
        return basis[1].float()

    def _coefficients(self, fields: Tensor) -> Tensor:
        return (fields * self.areas.to(fields)) @ self._functions.to(fields)

    def power(self, fields: Tensor) -> Tensor:
        """Return the mean square (record, channel, band) of the coefficients of fields."""
        square = self._coefficients(fields).square()
        sums = square.new_zeros(len(fields), *self.gain.shape).index_add_(2, self.band, square)
        return sums / torch.bincount(self.band, minlength=self.gain.shape[1])

    def fit(self, samples: Tensor, data: Tensor) -> None:
        """Set the gains that give samples the power of the data, (record, channel, node) each.

        A ratio that chance explains is left alone: its logarithm l, of standard error e, is
        multiplied by 1 - e^2 / l^2 or by zero, the positive-part estimate of James & Stein.
        """
        powers = [self.power(each).double() for each in (data, samples)]
        ratio = (powers[0].mean(0) / powers[1].mean(0)).log()
        chance = sum((each.std(0) / each.mean(0)) ** 2 / len(each) for each in powers)
        kept = (1.0 - chance / ratio.square()).clamp_min(0.0).nan_to_num(0.0)
        self.gain.copy_((0.5 * kept * ratio).exp())

    def forward(self, fields: Tensor) -> Tensor:
        """Return fields (batch, channel, node) with their power changed."""
        more = (self.gain - 1.0)[:, self.band].to(fields)
        return fields + (more * self._coefficients(fields)) @ self._functions.to(fields).T
