"""A Gaussian prior for every season: what a variable's anomalies look like in each month."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.gaussian import scales as covariances
from apsgeo.gaussian.drift.added import AddedPatterns
from apsgeo.gaussian.eofs import EOFs
from apsgeo.gaussian.posterior import GaussianPosterior, each_prior
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.scales import Scales
from apsgeo.measurement import Measurement

__all__ = ["SeasonalPrior"]

_LEAST_WANDER = 1e-3  # units of the index of a trend, below which it does not matter
_STEPS = 4  # priors of each octave of the trend's uncertainty
_KEPT_BYTES = 2**30  # bytes of loadings of the seasons' priors that are kept


class SeasonalPrior:
    """Gaussian priors whose EOF covariance follows the season; see `EOFs.at`.

    Args:
        scales: Free numbers of the covariance, which build a prior.
        field: Local field, `scales.field(domain)`.
        eofs: EOFs of the history.
        variance: Marginal variance (channel, node).
        drift: Pattern (channel, node) of a trend, or None. Its amplitude varies, beyond what the
            covariance says, by `spread` and by a measurement's `wander`, independently.
        spread: Standard deviation of the amplitude at all times.
    """

    def __init__(
        self,
        scales: Scales,
        field: Any,
        eofs: EOFs,
        variance: Tensor,
        drift: Tensor | None = None,
        spread: float = 0.0,
    ) -> None:
        self.scales, self.field, self.eofs, self.variance = scales, field, eofs, variance
        self.drift, self.spread = drift, spread
        self._kept: OrderedDict[tuple[int, int], GaussianPrior] = OrderedDict()
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

    def at(self, season: int | None, wander: float = 0.0) -> GaussianPrior:
        """Return the prior of a season, an index, or of the whole year.

        Args:
            season: Index of the season.
            wander: Standard deviation of the trend's amplitude beside `spread`. Their sum is
                rounded to quarters of an octave, so that records of about the same time share a
                prior.
        """
        total, step = math.hypot(self.spread, wander), 0
        if self.drift is not None and total > _LEAST_WANDER:
            step = 1 + round(_STEPS * math.log2(total / _LEAST_WANDER))
        with self._lock:
            return self._at(-1 if season is None or self.eofs.seasons == 1 else season, step)

    def _at(self, season: int, step: int) -> GaussianPrior:
        if season < 0 and step == 0:
            return self.annual
        place = season, step
        if place not in self._kept:
            while len(self._kept) >= max(1, _KEPT_BYTES // (8 * self.eofs.loadings.numel())):
                self._kept.popitem(last=False)
            if step == 0:
                loadings = self.eofs.at(season, self.scales.seasonal_share)
                self._kept[place] = self.scales.build(self.field, loadings, self.variance)
            else:
                assert self.drift is not None
                wander = _LEAST_WANDER * 2.0 ** ((step - 1) / _STEPS)
                added = (wander * self.drift)[..., None]
                self._kept[place] = AddedPatterns(self._at(season, 0), added)
        self._kept.move_to_end(place)
        return self._kept[place]

    def _all(self, season: Tensor | None, wander: Tensor | None, count: int) -> list[GaussianPrior]:
        seasons = [None] * count if season is None else season.tolist()
        wanders = [0.0] * count if wander is None else wander.tolist()
        places = list(zip(seasons, wanders, strict=True))
        found = {place: self.at(*place) for place in dict.fromkeys(places)}
        return [found[place] for place in places]

    def of(self, measurement: Measurement) -> list[GaussianPrior]:
        """Return the prior of each measured field, by its season."""
        return self._all(measurement.season, measurement.wander, len(measurement))

    def posterior(self, measurement: Measurement) -> GaussianPosterior:
        """Return the exact posterior of the fields behind a measurement, by their seasons."""
        return GaussianPosterior(self.of(measurement), measurement)

    def log_prob(self, signal: Tensor, season: Tensor) -> Tensor:
        """Return the exact log density (batch,) of signals (batch, channel, node)."""
        return each_prior(
            self._all(season, None, len(signal)), lambda prior, x: prior.log_prob(x), signal
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
            "spread": self.spread,
        }
        tensors = self.eofs.to_tensors() | self.scales.field_to_tensors(self.field)
        if self.drift is not None:
            tensors["drift"] = self.drift.float()
        return config, tensors | {"variance": self.variance.float()}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], domain: Domain
    ) -> SeasonalPrior:
        """Rebuild a prior from `to_state`."""
        scales = covariances.from_config(config["scales"])
        field = scales.field_from_tensors(domain, tensors)
        eofs = EOFs.from_tensors(tensors, config["seasons"])
        drift = tensors.get("drift")
        spread = config.get("spread", 0.0)
        return cls(scales, field, eofs, tensors["variance"].double(), drift, spread)
