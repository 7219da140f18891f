"""Normals of values on a manifold: a Fréchet mean field, and tangent vectors for anomalies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.measurement.measurement import Measurement
from apsgeo.measurement.normals import Normals
from apsgeo.values.flat import Euclidean
from apsgeo.values.mean import frechet_mean
from apsgeo.values.sphere import Sphere
from apsgeo.values.values import Values

__all__ = ["EmbeddedNormals", "TangentNormals", "ValuedNormals", "fit_valued"]

_WIDE = 0.05  # share of directions beyond a right angle that makes the chart "embedded"


@dataclass(frozen=True)
class ValuedNormals(Normals):
    """Normals of fields whose values are points of a manifold.

    A field of the data is (batch, ambient, node), the numbers of a point along the channels; an
    anomaly is (batch, channel, node) in an ordinary space. The mean, standard deviation and
    covariates are those of the ordinary space.

    Attributes:
        values: Manifold of the values.
    """

    values: Values = field(kw_only=True)
    linear: ClassVar[bool] = False

    @property
    def data_channels(self) -> int:
        """Number of numbers that a point has."""
        return self.values.manifold.ambient

    @property
    def described(self) -> str:
        """The manifold and the number of seasons, in words."""
        return f"{self.values.manifold!r} ({self.values.chart}), {super().described}"

    def _centres(self) -> Tensor:
        """Return the points (season, ambient, node) about which values lie."""
        raise NotImplementedError

    @property
    def usual(self) -> tuple[Tensor, Tensor]:
        """The points about which values lie, and an infinite spread: any point is possible."""
        centres = self._centres()
        return centres, torch.full_like(centres, torch.inf)

    def _own(self, measurement: Measurement) -> tuple[Measurement, Tensor, Tensor]:
        """Return a measurement of points with its seasons, and mask and noise of the nodes.

        Raises:
            InputError: If it is not of the nodes themselves, or errors are shared.
        """
        if not measurement.operator.is_identity:
            raise InputError(
                f"{measurement.operator!r} measures values on {self.values.manifold!r}, which is "
                "only possible at nodes: use Mask(), Gaps() and the like."
            )
        if measurement.shared is not None:
            raise InputError(
                f"shared errors of values on {self.values.manifold!r}; give each observation its "
                "noise_std"
            )
        season = measurement.season_of(self.seasons)
        seen = replace(measurement, season=season)
        mask = seen.mask.all(1, keepdim=True) & self.valid.to(seen.mask.device)
        return seen, mask, seen.noise_std[:, :1]

    def average(self, members: Tensor) -> Tensor:
        """Return the Fréchet mean (batch, ambient, node) of members, NaN where there are none."""
        points = self.values.points(members)
        known = ~points[0].isnan().any(-1)
        mean = torch.full_like(points[0], torch.nan)
        mean[known] = frechet_mean(self.values.manifold, points[:, known])
        return self.values.points(mean)

    def perturb(self, values: Tensor, noise_std: Tensor, generator: torch.Generator) -> Tensor:
        """Return points moved by tangent vectors of normal coordinates: geodesic noise."""
        manifold, points = self.values.manifold, self.values.points(values)
        normal = torch.randn(*points.shape[:-1], manifold.dim, generator=generator).to(points)
        size = noise_std.expand(values.shape)[:, :1].transpose(-1, -2)
        frame = manifold.frame(points)
        vectors = torch.einsum("...ad,...d->...a", frame, size * normal)
        return self.values.points(manifold.exp(points, vectors))

    def to_config(self) -> dict[str, Any] | None:
        """Return the manifold and the chart."""
        return self.values.to_config()

    @classmethod
    def rebuilt(cls, values: Values, tensors: dict[str, Tensor]) -> Self:
        """Rebuild from values and `to_tensors`."""
        own: Any = {n: tensors[f"normals.{n}"] for n in ("mean", "std", "valid")}
        return cls(**own, values=values)


@dataclass(frozen=True)
class TangentNormals(ValuedNormals):
    """Anomalies are coordinates of the logarithm at the Fréchet mean of node and season.

    The frames are parallel to one frame at the mean of all, whose axes are the principal ones of
    all anomalies: an isometry of the values moves mean, frames and members alike. Mean and standard
    deviation standardize the coordinates. The noise of an observation is taken over into the
    tangent space as it is, which is exact for small noise, or in a flat manifold.

    Attributes:
        base: Fréchet mean (season, ambient, node).
        frames: Frames (season, ambient, dim, node) of the tangent spaces there.
    """

    base: Tensor = field(kw_only=True)
    frames: Tensor = field(kw_only=True)

    @classmethod
    def of(
        cls,
        values: Values,
        fields: Tensor,
        season: Tensor,
        seasons: int,
        baseline: Tensor | None,
        least_std: float,
    ) -> Self:
        """Fit mean, frames and spread to fields (time, ambient, node); see `Normals.fit`."""
        manifold, valid = values.manifold, ~fields.isnan().any(1).all(0)
        chosen = slice(None) if baseline is None else baseline
        known = fields[:, :, valid].double()
        base = values.mean_field(known[chosen], season[chosen], seasons)
        points = values.points(base)
        centre = frechet_mean(manifold, points.flatten(0, 1))
        points = manifold.align(centre, points)
        base, frame = values.points(points), manifold.frame(centre)
        frames = values.frames(base, centre, frame)
        if not isinstance(manifold, Euclidean):
            turn = _principal(values.coordinates(base[season], frames[season], known))
            frames = torch.einsum("...adn,de->...aen", frames, turn)
        coordinates = values.coordinates(base[season], frames[season], known)
        spread = torch.full((len(fields), manifold.dim, fields.shape[-1]), torch.nan).double()
        spread[..., valid] = coordinates
        plain = Normals.fit(spread, season, seasons, baseline, least_std=least_std)
        whole = torch.zeros(seasons, manifold.ambient, len(valid)).double()
        whole[...] = centre[:, None]
        whole[..., valid] = base
        every = torch.zeros(*frames.shape[:-1], len(valid)).double()
        every[..., valid] = frames
        return cls(
            plain.mean,
            plain.std,
            plain.valid,
            values=replace(values, chart="tangent"),
            base=whole.float(),
            frames=every.float(),
        )

    def _centres(self) -> Tensor:
        return self.base

    def _at(self, season: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        return self.base.to(like)[season], self.frames.to(like)[season]

    def standardize(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return standardized coordinates (..., batch, dim, node) of points."""
        base, frames = self._at(season, fields)
        known = torch.where(self.valid.to(fields.device), fields, base)
        return super().standardize(self.values.coordinates(base, frames, known), season)

    def restore(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return the points of standardized coordinates (..., batch, dim, node)."""
        base, frames = self._at(season, fields)
        coordinates = super().restore(fields, season).nan_to_num()
        out = self.values.fields(base, frames, coordinates)
        return torch.where(self.valid.to(out.device), out, torch.nan)

    def log_det(self, anomalies: Tensor, season: Tensor) -> Tensor:
        """Return that of the standard deviations, and of exp, of all nodes.

        The density of points counts the shortest tangent vector of each node alone; see
        `apsgeo.values.wrapped.beyond_cut` for what it leaves out.
        """
        base, frames = self._at(season, anomalies)
        coordinates = super().restore(anomalies, season)
        volume = self.values.log_volume(base, frames, coordinates).sum(-1)
        return super().log_det(anomalies, season) + volume

    def measure(self, measurement: Measurement) -> Measurement:
        """Return a measurement of points as one of standardized coordinates.

        Raises:
            InputError: If it is not of the nodes themselves.
        """
        seen, mask, noise = self._own(measurement)
        assert seen.season is not None
        base, frames = self._at(seen.season, seen.values)
        known = torch.where(mask, seen.values, base)
        coordinates = self.values.coordinates(base, frames, known)
        mean, std = (each.to(coordinates)[seen.season] for each in (self.mean, self.std))
        shape = coordinates.shape
        return replace(
            seen,
            values=(coordinates - mean) / std,
            mask=mask.expand(shape),
            noise_std=noise.expand(shape) / std,
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the attributes by name, for saving."""
        return super().to_tensors() | {"values.base": self.base, "values.frames": self.frames}

    @classmethod
    def rebuilt(cls, values: Values, tensors: dict[str, Tensor]) -> Self:
        """Rebuild from values and `to_tensors`."""
        own: Any = {n: tensors[f"normals.{n}"] for n in ("mean", "std", "valid")}
        own |= {n: tensors[f"values.{n}"] for n in ("base", "frames")}
        return cls(**own, values=values)


@dataclass(frozen=True)
class EmbeddedNormals(ValuedNormals):
    """Anomalies are those of the numbers of the points; members are projected onto the manifold.

    Where directions point everywhere the mean vector is short and members surround it: they may be
    of several modes. A member has no density, since many vectors are projected to a point. An
    observation's geodesic noise is taken for the noise of each number.
    """

    @classmethod
    def of(
        cls,
        values: Values,
        fields: Tensor,
        season: Tensor,
        seasons: int,
        baseline: Tensor | None,
        least_std: float,
    ) -> Self:
        """Fit mean and spread to fields (time, ambient, node); see `Normals.fit`."""
        plain = Normals.fit(fields, season, seasons, baseline, least_std=least_std)
        chosen = replace(values, chart="embedded")
        return cls(plain.mean, plain.std, plain.valid, values=chosen)

    def _centres(self) -> Tensor:
        return self.values.project(self.mean)

    @property
    def _radius(self) -> float:
        manifold = self.values.manifold
        assert isinstance(manifold, Sphere)
        return manifold.radius

    def restore(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return the points nearest to restored numbers (..., batch, ambient, node)."""
        numbers = super().restore(fields, season)
        points = self.values.manifold.project(self.values.points(numbers.nan_to_num()))
        return torch.where(self.valid.to(fields.device), self.values.points(points), torch.nan)

    def measure(self, measurement: Measurement) -> Measurement:
        """Return a measurement of points as one of standardized numbers.

        Raises:
            InputError: If it is not of the nodes themselves.
        """
        seen, mask, noise = self._own(measurement)
        mean, std = (each.to(seen.values)[seen.season] for each in (self.mean, self.std))
        return replace(
            seen,
            values=(seen.values - mean) / std,
            mask=mask.expand(seen.mask.shape),
            noise_std=(noise / self._radius).expand(seen.mask.shape) / std,
        )

    def check_density(self) -> None:
        """Refuse: many vectors are projected to one point.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "projected directions have no density in closed form; fit the prior with "
            "manifold=Values(manifold, chart='tangent') for one."
        )


def fit_valued(
    values: Values,
    fields: Tensor,
    season: Tensor,
    seasons: int,
    baseline: Tensor | None = None,
    *,
    least_std: float = 1e-3,
) -> ValuedNormals:
    """Fit normals to points in the chart of the values; see `Normals.fit` and `Values.chart`.

    Raises:
        InputError: If values are missing at some times only, are not on the manifold, or balanced.
    """
    missing = fields.isnan().any(1)
    if bool((missing.any(0) & ~missing.all(0)).any()):
        raise InputError(
            f"the history misses {int(missing.sum())} values that change with time; a prior of "
            f"values on {values.manifold!r} is fitted to complete fields (constant gaps such as "
            "land are fine)."
        )
    values.check(fields, "the history")
    given = (values, fields, season, seasons, baseline, least_std)
    if values.chart == "embedded":
        return EmbeddedNormals.of(*given)
    if values.chart == "auto" and isinstance(values.manifold, Sphere):
        mean = values.project(fields.mean(0).where(~missing.all(0), torch.nan))
        beyond = (fields * mean).sum(1)[:, ~missing.all(0)] < 0.0
        if float(beyond.double().mean()) > _WIDE:
            return EmbeddedNormals.of(*given)
    return TangentNormals.of(*given)


def _principal(coordinates: Tensor) -> Tensor:
    """Return the principal axes (dim, dim) of coordinates (record, dim, node).

    Each has the sense in which the third moment is positive.
    """
    pooled = coordinates.movedim(1, 0).flatten(1)
    axes = torch.linalg.eigh(pooled @ pooled.T).eigenvectors.flip(-1)
    skew = (axes.T @ pooled).pow(3).sum(-1)
    return axes * torch.where(skew < 0.0, -1.0, 1.0)
