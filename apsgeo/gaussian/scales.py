"""The free numbers of the Gaussian priors' covariances, and how a prior is built from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.gaussian.anisotropy import face_reach
from apsgeo.gaussian.hybrid import HybridPrior
from apsgeo.gaussian.localised import LocalisedField, LocalisedPrior
from apsgeo.gaussian.matern import LocalField, MaternField, MaternSum
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.random_field.scales import RandomFieldScales
from apsgeo.io import of_kind

__all__ = [
    "HybridScales",
    "LocalisedScales",
    "Scales",
    "TwoRangeScales",
    "from_config",
    "to_config",
]

Array = NDArray[np.float64]

_LEAST_LOCAL = 1e-3  # least fraction of a node's variance that is left to the local field


class Scales(Protocol):
    """The free numbers of a covariance, as a point in an unbounded space.

    `field` makes the local part of the covariance, which folds and seasons share. `build` makes a
    prior of it, of EOFs (channel, node, rank) and of the anomalies' variance (channel, node).
    """

    kind: ClassVar[str]
    steps: ClassVar[tuple[float, ...]]

    @property
    def seasonal_share(self) -> float:
        """Share of the EOF covariance that follows the season."""
        ...

    @classmethod
    def start(cls, domain: Domain) -> Self:
        """Return a guess, with lengths in proportion to the domain."""
        ...

    def encode(self) -> Array:
        """Return the point."""
        ...

    @classmethod
    def decode(cls, point: Array) -> Self:
        """Undo `encode`."""
        ...

    def field(self, domain: Domain, fields: Tensor | None = None, *, draft: bool = False) -> Any:
        """Return the local field; a draft serves for a few posteriors.

        Args:
            domain: Domain of the field.
            fields: Fields (time, channel, node) to learn from; without them it is stationary.
            draft: Leave out slow preparations that pay for many posteriors only.
        """
        ...

    def relearn(self, field: Any, fields: Tensor) -> Any:
        """Return the local field of other fields, such as those of all but one fold."""
        ...

    def field_to_tensors(self, field: Any) -> dict[str, Tensor]:
        """Return the slow parts of the local field, to save."""
        ...

    def field_from_tensors(self, domain: Domain, tensors: dict[str, Tensor]) -> Any:
        """Rebuild the local field."""
        ...

    def build(self, field: Any, loadings: Tensor, variance: Tensor) -> GaussianPrior:
        """Return the prior."""
        ...


@dataclass(frozen=True)
class _Point:
    """Scales as a point: logits of the numbers in (0, 1), logs of the others."""

    fractions: ClassVar[frozenset[str]]

    def encode(self) -> Array:
        """Return the point, in the order of the fields."""
        values = vars(self).items()
        return np.array([logit(x) if name in self.fractions else np.log(x) for name, x in values])

    @classmethod
    def decode(cls, point: Array) -> Self:
        """Undo `encode`."""
        names = [field.name for field in fields(cls)]
        values = zip(names, point, strict=True)
        return cls(*(float(expit(x) if name in cls.fractions else np.exp(x)) for name, x in values))


class _Hybrid(_Point, ABC):
    """The common part of the scales of hybrid covariances."""

    eof_weight: float
    nugget: float
    adaptivity: float

    def field(
        self, domain: Domain, fields: Tensor | None = None, *, draft: bool = False
    ) -> LocalField:
        """Return the Matern field of the residual, whose range follows that of the fields."""
        reach = None if fields is None else face_reach(domain, fields) ** self.adaptivity
        return self._field(domain, reach, None)

    def relearn(self, field: LocalField, fields: Tensor) -> LocalField:
        """Return the local field of other fields, the same if it is stationary."""
        return field if field.reach is None else self.field(field.domain, fields)

    def field_from_tensors(self, domain: Domain, tensors: dict[str, Tensor]) -> LocalField:
        """Rebuild the Matern field."""
        reach, variance = (
            tensors[name].double().numpy() if name in tensors else None
            for name in ("matern_reach", "matern_variance")
        )
        return self._field(domain, reach, variance)

    @abstractmethod
    def _field(self, domain: Domain, reach: Array | None, variance: Array | None) -> LocalField:
        """Return the Matern field of the residual, its variance (node,) known or computed."""

    def field_to_tensors(self, field: LocalField) -> dict[str, Tensor]:
        """Return the variance of the local field, and its reach across faces."""
        tensors = {"matern_variance": torch.from_numpy(field.variance).float()}
        if field.reach is not None:
            tensors["matern_reach"] = torch.from_numpy(field.reach).float()
        return tensors

    def build(self, field: LocalField, loadings: Tensor, variance: Tensor) -> HybridPrior:
        """Return the prior."""
        kept = loadings * np.sqrt(self.eof_weight)
        local = _left(variance, kept, 1.0, self.nugget) / torch.from_numpy(field.variance).sqrt()
        nugget = (self.nugget * variance).sqrt()
        return HybridPrior(field, kept, local.float(), nugget.float())


@dataclass(frozen=True)
class HybridScales(_Hybrid):
    """The free numbers of the hybrid covariance with a Matern residual of one range, nu = 1.

    Attributes:
        eof_weight: Share beta of the EOF covariance that is kept, in (0, 1).
        range_km: Range of the Matern residual.
        nugget: Fraction of each node's variance that is white.
        seasonal_share: Share of the EOF covariance that follows the season, in (0, 1).
        adaptivity: Power of `face_reach` by which the range follows place and direction, in
            (0, 1).
    """

    eof_weight: float = 0.5
    range_km: float = 2250.0
    nugget: float = 5e-4
    seasonal_share: float = 0.7
    adaptivity: float = 0.6
    kind: ClassVar[str] = "hybrid"
    fractions: ClassVar[frozenset[str]] = frozenset({"eof_weight", "seasonal_share", "adaptivity"})
    steps: ClassVar[tuple[float, ...]] = (0.8, 0.3, 1.5, 1.0, 0.8)

    @classmethod
    def start(cls, domain: Domain) -> HybridScales:
        """Return a guess; the range is that of the defaults where the domain is a whole sphere."""
        return cls(range_km=0.1 * _extent_km(domain))

    def _field(self, domain: Domain, reach: Array | None, variance: Array | None) -> MaternField:
        return MaternField(domain, self.range_km, reach=reach, variance=variance)


@dataclass(frozen=True)
class TwoRangeScales(_Hybrid):
    """The free numbers of the hybrid covariance with a residual of two ranges, nu = 2.

    It fits better than that of one range, at about three times its cost.

    Attributes:
        eof_weight: Share beta of the EOF covariance that is kept, in (0, 1).
        short_share: Share of the residual's variance that has the shorter range, in (0, 1).
        short_km: Shorter range of the Matern residual.
        long_km: Longer range.
        nugget: Fraction of each node's variance that is white.
        inflation: Factor of the history's covariance, since the climate moves on.
        seasonal_share: Share of the EOF covariance that follows the season, in (0, 1).
        adaptivity: Power of `face_reach` by which the ranges follow place and direction, in
            (0, 1).
    """

    eof_weight: float = 0.5
    short_share: float = 0.4
    short_km: float = 1200.0
    long_km: float = 3000.0
    nugget: float = 2e-4
    inflation: float = 1.2
    seasonal_share: float = 0.75
    adaptivity: float = 0.6
    kind: ClassVar[str] = "two-range hybrid"
    fractions: ClassVar[frozenset[str]] = frozenset(
        {"eof_weight", "short_share", "seasonal_share", "adaptivity"}
    )
    steps: ClassVar[tuple[float, ...]] = (0.5, -0.6, 0.25, -0.25, 1.0, 0.3, 0.7, 0.8)

    @classmethod
    def start(cls, domain: Domain) -> TwoRangeScales:
        """Return a guess; the ranges are about the defaults where the domain is a sphere."""
        extent = _extent_km(domain)
        return cls(short_km=0.053 * extent, long_km=0.13 * extent)

    def build(self, field: LocalField, loadings: Tensor, variance: Tensor) -> HybridPrior:
        """Return the prior."""
        more = self.inflation
        return super().build(field, loadings * np.sqrt(more), variance * more)

    def _field(self, domain: Domain, reach: Array | None, variance: Array | None) -> MaternSum:
        fields = [MaternField(domain, km, 2, reach=reach) for km in (self.short_km, self.long_km)]
        return MaternSum(fields, [self.short_share, 1.0 - self.short_share], variance=variance)


@dataclass(frozen=True)
class LocalisedScales(_Point):
    """The free numbers of the localised covariance.

    Attributes:
        eof_weight: Share of the EOF covariance that is kept, in (0, 1).
        tapered_share: Share of the kept covariance that acts within the taper only, in (0, 1).
        taper_km: Half the distance at which the taper reaches zero.
        range_km: Range of the Matern residual.
        nugget: Fraction of each node's variance that is white.
        seasonal_share: Share of the EOF covariance that follows the season, in (0, 1).
    """

    eof_weight: float = 0.93
    tapered_share: float = 0.7
    taper_km: float = 3800.0
    range_km: float = 1500.0
    nugget: float = 4e-4
    seasonal_share: float = 0.7
    kind: ClassVar[str] = "localised"
    fractions: ClassVar[frozenset[str]] = frozenset(
        {"eof_weight", "tapered_share", "seasonal_share"}
    )
    steps: ClassVar[tuple[float, ...]] = (-0.6, -0.8, 0.3, 0.3, 1.0, 1.0)

    @classmethod
    def start(cls, domain: Domain) -> LocalisedScales:
        """Return a guess; the lengths are about the defaults where the domain is a sphere."""
        extent = _extent_km(domain)
        return cls(taper_km=0.17 * extent, range_km=0.07 * extent)

    def field(
        self, domain: Domain, fields: Tensor | None = None, *, draft: bool = False
    ) -> LocalisedField:
        """Return the taper and the Matern field, which learn nothing from fields."""
        return LocalisedField(domain, self.taper_km, self.range_km, draft=draft)

    def relearn(self, field: LocalisedField, fields: Tensor) -> LocalisedField:
        """Return the same field."""
        return field

    def field_to_tensors(self, field: LocalisedField) -> dict[str, Tensor]:
        """Return nothing: the field is quickly made anew."""
        return {}

    def field_from_tensors(self, domain: Domain, tensors: dict[str, Tensor]) -> LocalisedField:
        """Rebuild the taper and the Matern field."""
        return self.field(domain)

    def build(self, field: LocalisedField, loadings: Tensor, variance: Tensor) -> LocalisedPrior:
        """Return the prior."""
        nugget = (self.nugget * variance).sqrt()
        return LocalisedPrior(
            field,
            loadings,
            _left(variance, loadings, self.eof_weight, self.nugget).float(),
            nugget.float(),
            global_weight=self.eof_weight * (1.0 - self.tapered_share),
            tapered_weight=self.eof_weight * self.tapered_share,
        )


def _extent_km(domain: Domain) -> float:
    """Return the square root of the domain's area, in km."""
    return float(domain.areas.sum()) ** 0.5 * domain.radius_km


def _left(variance: Tensor, loadings: Tensor, weight: float, nugget: float) -> Tensor:
    """Return the standard deviation (channel, node) that EOFs and nugget leave to a local field."""
    left = (1.0 - nugget) * variance - weight * (loadings**2).sum(-1)
    return torch.maximum(left, _LEAST_LOCAL * variance).sqrt()


_SCALES: list[type[Scales]] = [HybridScales, TwoRangeScales, LocalisedScales, RandomFieldScales]


def to_config(scales: Scales) -> dict[str, Any]:
    """Return a JSON-able configuration of scales."""
    return {"kind": scales.kind, **vars(scales)}


def from_config(config: dict[str, Any]) -> Scales:
    """Rebuild scales from `to_config`.

    Raises:
        ModelError: If the configuration's `kind` is not that of a covariance known here.
    """
    kind = of_kind(_SCALES, config, "covariance")
    return kind(**{name: value for name, value in config.items() if name != "kind"})
