"""Empirical orthogonal functions of a history, and their covariance in each season."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apsgeo.domains.base import Domain

__all__ = ["EOFs", "empirical_orthogonal_functions"]

_WINDOW = 1.0  # months: standard deviation of the kernel that pools the months of a season
_LEVELS = 127  # largest size of a loading that is stored in eight bits


@dataclass(frozen=True)
class EOFs:
    """The patterns of a history, and how much of each there was at each time.

    Attributes:
        loadings: Patterns (channel, node, rank), each times its standard deviation.
        components: Principal components (time, rank) of unit variance.
        season: Index (time,) of each record's season.
        seasons: Number of seasons.
    """

    loadings: Tensor
    components: Tensor
    season: Tensor
    seasons: int

    @property
    def rank(self) -> int:
        """Number of patterns."""
        return int(self.loadings.shape[-1])

    def rounded(self) -> EOFs:
        """Return the EOFs as `to_tensors` stores them: what is fitted is what is saved."""
        return self.from_tensors(self.to_tensors(), self.seasons)

    def at(self, season: int, share: float) -> Tensor:
        """Return loadings whose covariance follows the season, (channel, node, rank).

        They are L K^{1/2}, where K is a weighted mean of a_t a_t^T over the components a_t. A share
        of the weights falls with the distance of a record's season, as a Gaussian of one month
        does; the rest are equal.
        """
        distance = (self.season - season).abs()
        distance = torch.minimum(distance, self.seasons - distance).double()
        kernel = torch.exp(-0.5 * (distance * 12 / self.seasons / _WINDOW) ** 2)
        weights = share * kernel / kernel.mean() + (1.0 - share)
        parts = self.components.double() * (weights / len(weights)).sqrt()[:, None]
        values, vectors = torch.linalg.eigh(parts.T @ parts)
        return self.loadings.double() @ (vectors * values.clamp(min=0.0).sqrt()).flip(1)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors to save: loadings in eight bits, and the factor of each pattern."""
        scale = self.loadings.abs().amax((0, 1)).clamp(min=1e-30).float() / _LEVELS
        return {
            "loadings": (self.loadings / scale).round().to(torch.int8),
            "loadings_scale": scale,
            "components": self.components.half(),
            "record_season": self.season.to(torch.uint8),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], seasons: int) -> EOFs:
        """Rebuild EOFs from `to_tensors`."""
        return cls(
            tensors["loadings"].double() * tensors["loadings_scale"].double(),
            tensors["components"].double(),
            tensors["record_season"].long(),
            seasons,
        )


def empirical_orthogonal_functions(
    domain: Domain, fields: Tensor, rank: int, season: Tensor | None = None, seasons: int = 1
) -> EOFs:
    """Return the area-weighted EOFs of anomalies (time, channel, node), at most `rank`.

    The mean is not removed. The time-by-time Gram matrix and the value-by-value covariance have
    the same eigenvalues; the smaller matrix is diagonalized.
    """
    times, channels, _ = fields.shape
    root = (domain.areas / domain.areas.sum()).sqrt().repeat(channels)
    weighted = fields.double().reshape(times, -1) * root
    few = times <= weighted.shape[1]
    matrix = weighted @ weighted.T if few else weighted.T @ weighted
    values, vectors = torch.linalg.eigh(matrix / times)
    kept = min(rank, times - 1)
    values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
    kept = int((values > values[0] * 1e-10).sum())
    values, vectors = values[:kept], vectors[:, :kept]
    if few:
        components = vectors * np.sqrt(times)
        loadings = weighted.T @ components / times
    else:
        loadings = vectors * values.sqrt()
        components = weighted @ vectors / values.sqrt()
    return EOFs(
        (loadings / root[:, None]).reshape(channels, domain.num_nodes, -1),
        components,
        torch.zeros(times, dtype=torch.long) if season is None else season,
        seasons,
    )
