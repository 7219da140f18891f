"""A Gaussian prior for every season: what a variable's anomalies look like in each month."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.gaussian import scales as covariances
from apsgeo.gaussian.eofs import EOFs
from apsgeo.gaussian.posterior import GaussianPosterior, each_prior
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.scales import Scales
from apsgeo.measurement import Measurement

__all__ = ["SeasonalPrior"]

_KEPT_BYTES = 2**30  # bytes of loadings of the seasons' priors that are kept


class SeasonalPrior:
    """Gaussian priors whose EOF covariance follows the season; see `EOFs.at`.

    Args:
        scales: Free numbers of the covariance, which build a prior.
        field: Local field, `scales.field(domain)`.
        eofs: EOFs of the history.
        variance: Marginal variance (channel, node).
    """

    def __init__(self, scales: Scales, field: Any, eofs: EOFs, variance: Tensor) -> None:
        self.scales, self.field, self.eofs, self.variance = scales, field, eofs, variance
        self._kept: OrderedDict[int, GaussianPrior] = OrderedDict()
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"SeasonalPrior(seasons={self.eofs.seasons}, {self.annual!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the state, without factorizations, which cannot be."""
        return type(self).from_state, (*self.to_state(), self.domain)

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return f"{self.kind} Gaussian"

    @property
    def kind(self) -> str:
        """Name of the covariance."""
        return self.scales.kind

    @property
    def domain(self) -> Domain:
        """Domain of the signal."""
        domain: Domain = self.field.domain
        return domain

    @cached_property
    def annual(self) -> GaussianPrior:
        """The prior of a field whose season is not known."""
        return self.scales.build(self.field, self.eofs.loadings, self.variance)

    def at(self, season: int) -> GaussianPrior:
        """Return the prior of a season, an index."""
        if self.eofs.seasons == 1:
            return self.annual
        with self._lock:
            return self._at(season)

    def _at(self, season: int) -> GaussianPrior:
        if season not in self._kept:
            while len(self._kept) >= max(1, _KEPT_BYTES // (8 * self.eofs.loadings.numel())):
                self._kept.popitem(last=False)
            loadings = self.eofs.at(season, self.scales.seasonal_share)
            self._kept[season] = self.scales.build(self.field, loadings, self.variance)
        self._kept.move_to_end(season)
        return self._kept[season]

    def _all(self, season: Tensor | None, count: int) -> list[GaussianPrior]:
        if season is None:
            return [self.annual] * count
        found = {s: self.at(s) for s in sorted(set(season.tolist()))}
        return [found[s] for s in season.tolist()]

    def of(self, measurement: Measurement) -> list[GaussianPrior]:
        """Return the prior of each measured field, by its season."""
        return self._all(measurement.season, len(measurement))

    def posterior(self, measurement: Measurement) -> GaussianPosterior:
        """Return the exact posterior of the fields behind a measurement, by their seasons."""
        return GaussianPosterior(self.of(measurement), measurement)

    def log_prob(self, signal: Tensor, season: Tensor) -> Tensor:
        """Return the exact log density (batch,) of signals (batch, channel, node)."""
        return each_prior(
            self._all(season, len(signal)), lambda prior, x: prior.log_prob(x), signal
        )

    def sample(self, season: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a field for each season (batch,): (batch, channel, node), float32."""
        out = torch.empty(len(season), *self.variance.shape)
        for value in np.unique(season.numpy()):
            where = season == int(value)
            out[where] = self.at(int(value)).sample(int(where.sum()), generator)
        return out

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return a JSON-able configuration and the tensors."""
        config = {
            "scales": covariances.to_config(self.scales),
            "seasons": self.eofs.seasons,
        }
        tensors = self.eofs.to_tensors() | self.scales.field_to_tensors(self.field)
        return config, tensors | {"variance": self.variance.float()}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], domain: Domain
    ) -> SeasonalPrior:
        """Rebuild a prior from `to_state`."""
        scales = covariances.from_config(config["scales"])
        field = scales.field_from_tensors(domain, tensors)
        eofs = EOFs.from_tensors(tensors, config["seasons"])
        return cls(scales, field, eofs, tensors["variance"].double())
