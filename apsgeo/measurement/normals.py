"""Climatological normals: mean and standard deviation by season, which standardize data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.measurement.measurement import Measurement
from apsgeo.measurement.seasons import seasons_of
from apsgeo.measurement.trend import Trend
from apsgeo.operators.linear import LinearMap

__all__ = ["LeftOut", "Normals", "out_of_sample"]

_MONTHS = 12
_HARMONICS = 4  # of the year


class LeftOut(Protocol):
    """Function that predicts each observed node from the others near to it."""

    def __call__(
        self, measurement: Measurement, noise_cov: Tensor | None = None, *, apart: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return mean and covariance, as `apsgeo.gaussian.left_out.nodes.left_out` has them."""
        ...


@dataclass(frozen=True)
class Normals:
    """Mean and standard deviation of a field by season, in the units of the data.

    Attributes:
        mean: Mean (season, channel, node).
        std: Standard deviation (season, channel, node), positive.
        valid: Mask (node,), false where the history never has a value (land, of an ocean variable).
        trend: Trend of the standardized anomalies about the mean, or None.
    """

    mean: Tensor
    std: Tensor
    valid: Tensor
    trend: Trend | None = None
    linear: ClassVar[bool] = True
    """Whether standardizing is linear, so that densities and moments go over to the data."""
    shared_noise: ClassVar[bool] = True
    """Whether the noise of a standardized value is the same for all values of a node and season."""

    @classmethod
    def fit(
        cls,
        fields: Tensor,
        season: Tensor,
        seasons: int,
        baseline: Tensor | None = None,
        *,
        least_std: float = 1e-3,
    ) -> Normals:
        """Fit normals to a history.

        The mean is taken over the baseline records; of more seasons than months it is that of four
        harmonics of the year. The variance about it is that which a new record has, the error of
        the mean included (`out_of_sample`). It is taken over all records, and smoothed over
        neighbouring seasons with the weights 1/4, 1/2, 1/4, for seasons shorter than a month until
        that is as wide.

        Args:
            fields: Fields (time, channel, node); nodes that are NaN at every time are not valid.
            season: Index (time,) of each record's season.
            seasons: Number of seasons: 12 for months, 1 for none; see `Seasons`.
            baseline: Mask (time,), true for the records that define the mean; all by default.
            least_std: Least standard deviation of a node, in root mean squares of all.

        Raises:
            InputError: If ``least_std`` is not above 0, values are missing at some times only, or a
                season has fewer than two records in the baseline.
        """
        if not least_std > 0.0:
            raise InputError(f"least_std={least_std}; give a share of the deviation above 0")
        missing = ~torch.isfinite(fields)
        if bool((missing.any(0) & ~missing.all(0)).any()):
            raise InputError(
                f"the history has {int(missing.sum())} missing or infinite values that change with "
                "time; a prior is fitted to complete fields (constant gaps such as land are fine)."
            )
        fields = torch.where(missing, 0.0, fields.double())
        chosen = torch.ones(len(fields), dtype=torch.bool) if baseline is None else baseline
        counts = torch.bincount(season[chosen], minlength=seasons)
        if int(counts.min()) < 2:
            raise InputError(
                f"season {int(counts.argmin())} has {int(counts.min())} records in the baseline, "
                "at least two are needed; give a longer history or another baseline."
            )
        mean = torch.stack([fields[chosen & (season == s)].mean(0) for s in range(seasons)])
        kind = seasons_of(seasons)
        if kind.parts > _MONTHS:
            mean = _harmonics(mean.unflatten(0, (kind.parts, kind.hours))).flatten(0, 1)
        wider = out_of_sample(season, seasons, baseline)
        anomalies = wider[:, None, None] * (fields - mean[season])
        var = torch.stack([(anomalies[season == s] ** 2).mean(0) for s in range(seasons)])
        if kind.parts > 2:
            for _ in range(max(1, round((kind.parts / _MONTHS) ** 2))):  # widths add as squares
                var = (var.roll(kind.hours, 0) + 2 * var + var.roll(-kind.hours, 0)) / 4
        valid = ~missing.any(0).any(0)
        floor = least_std * var[..., valid].mean().sqrt()
        if not bool(floor > 0):
            raise InputError("the history does not vary; there is nothing to learn from it.")
        std = torch.where(valid, var.sqrt().clamp(min=float(floor)), 1.0)
        return cls(mean.float(), std.float(), valid)

    @property
    def channels(self) -> int:
        """Number of channels of the standardized anomalies."""
        return self.mean.shape[1]

    @property
    def data_channels(self) -> int:
        """Number of channels of the data; that of the anomalies, unless they are another space."""
        return self.channels

    @property
    def usual(self) -> tuple[Tensor, Tensor]:
        """Mean and spread (season, data channel, node) that values of the data are compared with.

        The spread is infinite where values cannot be out of range.
        """
        return self.mean, self.std

    @property
    def seasons(self) -> int:
        """Number of seasons."""
        return len(self.mean)

    @property
    def described(self) -> str:
        """The number of seasons, in words."""
        return "one season" if self.seasons == 1 else f"{self.seasons} seasons"

    def mean_at(self, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return the mean (batch, channel, node) at seasons and, if there is a trend, times.

        Raises:
            InputError: If there is a trend, and times are not known.
        """
        if self.trend is None:
            return self.mean[season]
        if instant is None:
            raise InputError(
                "the model has a trend, and the times of the records are not known; pass instant=, "
                "microseconds since 1970 for each record."
            )
        return self.mean[season] + self.std[season] * self.trend.shift(instant)

    def standardize(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return (fields - mean) / std for fields (batch, channel, node) of seasons and instants.

        Raises:
            InputError: If there is a trend, and times are not known.
        """
        mean, std = self.mean_at(season, instant).to(fields), self.std.to(fields)[season]
        return (fields - mean) / std

    def encode(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return standardized anomalies as networks take them, float32, zero where not valid."""
        return torch.where(self.valid, self.standardize(fields, season, instant), 0.0).float()

    def latent(
        self, fields: Tensor, season: Tensor, domain: Domain, instant: Tensor | None = None
    ) -> Tensor:
        """Return what priors learn from, as `encode` does; NaN where values are missing at times.

        Args:
            fields: Fields (batch, channel, node) in the units of the data.
            season: Index (batch,) of each record's season.
            domain: Domain of the fields.
            instant: Time (batch,) of each record, which normals with a trend want.
        """
        return self.encode(fields, season, instant)

    def restore(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Undo `standardize` for (..., batch, channel, node), NaN where not valid."""
        mean, std = self.mean_at(season, instant).to(fields), self.std.to(fields)[season]
        out = fields * std + mean
        return torch.where(self.valid.to(out.device), out, torch.nan)

    def scaled(self, fields: Tensor, season: Tensor) -> Tensor:
        """Return anomalies (..., batch, channel, node) in the units of the data, up to a mean."""
        return fields * self.std.to(fields)[season]

    def measure(self, measurement: Measurement) -> Measurement:
        """Return a measurement in the units of the data as one of standardized anomalies.

        Values of the nodes themselves are standardized. From others the operator applied to the
        mean is subtracted, y - A mean, and the standard deviation becomes the measurement's
        `scale`. Observations that weigh a node which is not valid count as missing.

        Raises:
            InputError: If the seasons of the records are not known and the normals have several, or
            their times are not and there is a trend.
        """
        seen, season = measurement, measurement.season_of(self.seasons)
        if seen.around is not None:
            seen = replace(seen, around=self.measure(seen.around))
        if self.trend is not None and seen.instant is not None:
            seen = replace(seen, wander=self.trend.wander(seen.instant))
        mean = self.mean_at(season, seen.instant).to(seen.values)
        std = self.std.to(seen.values)[season]
        operator, mask = (
            seen.operator,
            seen.mask & self.observable(seen.operator).to(seen.mask.device),
        )
        if operator.is_identity:
            values, noise_std = (seen.values - mean) / std, seen.noise_std / std
            return replace(seen, values=values, mask=mask, noise_std=noise_std, season=season)
        values = seen.values - operator.apply(mean)
        return replace(seen, values=values, mask=mask, scale=std, season=season)

    def refined(
        self, measurement: Measurement, measured: Measurement, left_out: LeftOut
    ) -> Measurement:
        """Return a measurement of standardized values that the other observations tell, too.

        Where standardizing is linear nothing else tells what an observation says.

        Args:
            measurement: Measurement in the units of the data.
            measured: What `measure` made of it.
            left_out: Function that predicts observed nodes from the others.
        """
        return measured

    def observable(self, operator: LinearMap) -> Tensor:
        """Tell which observations (data channel, observation) weigh valid nodes alone."""
        outside = (~self.valid).to(self.mean).expand(1, self.data_channels, -1)
        return operator.apply(outside)[0].abs() <= 1e-6

    def check_density(self) -> None:
        """Refuse where restored anomalies have no density; here they have one.

        Raises:
            InputError: If there is none.
        """

    def log_det(self, anomalies: Tensor, season: Tensor) -> Tensor:
        """Return the log-determinant (..., batch) of the map from anomalies to the data.

        Args:
            anomalies: Standardized anomalies (..., batch, channel, node).
            season: Index (batch,) of each record's season.
        """
        constant = self.std[season].log().flatten(1).sum(1).to(anomalies)
        return constant.expand(anomalies.shape[:-2])

    def average(self, members: Tensor) -> Tensor:
        """Return the mean (batch, data channel, node) of members (member, ...) of the data."""
        return members.mean(0)

    def perturb(self, values: Tensor, noise_std: Tensor, generator: torch.Generator) -> Tensor:
        """Return values (batch, data channel, node) of the data with noise added."""
        return values + noise_std * torch.randn(values.shape, generator=generator)

    def to_config(self) -> dict[str, Any] | None:
        """Return what else than tensors rebuilds them, for saving; None for nothing."""
        return None

    @property
    def covariate_count(self) -> int:
        """Number of fields that `covariates` returns."""
        return 4 * self.mean.shape[1]

    def covariates(self, season: Tensor) -> Tensor:
        """Return fields (batch, 4 channel, node) that networks know beforehand, each of order one.

        They are the log of the seasonal standard deviation, the departure of the seasonal mean from
        the annual mean, the annual mean, and the size of the annual cycle: they tell season, land,
        sea and mountains.
        """
        log_std = self.std.log()
        annual, cycle = self.mean.mean(0), self.mean.std(0, correction=0)
        departure = (self.mean - annual) / cycle.mean().clamp(min=1e-6)
        fixed = torch.stack([_centred(annual), _centred(cycle)]).flatten(0, 1)
        known = fixed.expand(len(season), -1, -1)
        return torch.cat([(log_std - log_std.mean())[season], departure[season], known], dim=1)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the attributes by name, for saving."""
        tensors = {f"normals.{name}": getattr(self, name) for name in ("mean", "std", "valid")}
        return tensors if self.trend is None else tensors | self.trend.to_tensors()

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Normals:
        """Rebuild from `to_tensors`."""
        trend = Trend.from_tensors(tensors) if "trend.pattern" in tensors else None
        mean, std, valid = (tensors[f"normals.{name}"] for name in ("mean", "std", "valid"))
        return cls(mean, std, valid, trend)


def out_of_sample(season: Tensor, seasons: int, baseline: Tensor | None = None) -> Tensor:
    """Return how much larger (time,) anomalies would be from a mean that was fitted without them.

    Of n records, each counts for h = 1/n of its own mean: its squared anomaly is 1 - h times the
    variance, and that of a new record 1 + h times. Four harmonics are nine numbers of all records.

    Args:
        season: Index (time,) of each record's season.
        seasons: Number of seasons.
        baseline: Mask (time,), true for the records that define the mean; all by default.
    """
    chosen = torch.ones(len(season), dtype=torch.bool) if baseline is None else baseline
    kind = seasons_of(seasons)
    if kind.parts > _MONTHS:
        hour = season % kind.hours
        own = torch.bincount(hour[chosen], minlength=kind.hours)[hour] / (2.0 * _HARMONICS + 1.0)
    else:
        own = torch.bincount(season[chosen], minlength=seasons)[season].double()
    share = 1.0 / own.double().clamp(min=2.0)
    return torch.where(chosen, ((1.0 + share) / (1.0 - share)).sqrt(), 1.0)


def _harmonics(mean: Tensor) -> Tensor:
    """Return the first harmonics of the year of means (part, ...)."""
    waves = torch.fft.rfft(mean, dim=0)
    waves[_HARMONICS + 1 :] = 0.0
    return torch.fft.irfft(waves, n=len(mean), dim=0)


def _centred(field: Tensor) -> Tensor:
    """Return (channel, node) with mean zero and variance one over the nodes."""
    centred = field - field.mean(-1, keepdim=True)
    return centred / centred.std(-1, keepdim=True).clamp(min=1e-6)
