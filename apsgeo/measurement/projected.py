"""Normals of directions as those of vectors whose lengths the history tells."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.measurement.measurement import Measurement
from apsgeo.measurement.normals import LeftOut
from apsgeo.measurement.shrunk import shrunk_normals
from apsgeo.measurement.valued import EmbeddedNormals
from apsgeo.values.sphere import Sphere
from apsgeo.values.values import Values

__all__ = ["ProjectedNormals", "length_given"]

_CALM = 1e-12  # length of a vector that has no direction
_STEPS = 64  # of the quadrature over lengths
_WIDE = 6.0  # standard deviations on either side that it covers


@dataclass(frozen=True)
class ProjectedNormals(EmbeddedNormals):
    """Anomalies are those of vectors, of which the directions alone are observed and drawn.

    Vectors of the history have their lengths, such as the speeds of winds: where they are short the
    direction may be any. A Gaussian field of vectors has directions of the projected normal law
    (Mardia & Jupp 2000, "Directional Statistics", section 3.5.6), which may have two modes.

    An observed direction e with a geodesic error of sigma is taken for the vector r e with an error
    of r sigma. The length r is its mean given the direction, under the Gaussian law of the node: by
    the normals alone (`measure`), and better given the other observations (`refined`). Of vectors
    with few records a season, mean and spread are drawn to those of the year and of neighbours.

    Attributes:
        spread: Factor () of the standard deviations of records that were not learned from.
    """

    spread: Tensor = field(default_factory=lambda: torch.ones(()), kw_only=True)
    shared_noise: ClassVar[bool] = False

    @classmethod
    def fit_to(
        cls,
        domain: Domain,
        values: Values,
        fields: Tensor,
        season: Tensor,
        seasons: int,
        baseline: Tensor | None,
        least_std: float,
    ) -> Self:
        """Fit mean and spread to vectors (time, ambient, node); see `shrunk_normals`."""
        plain = shrunk_normals(domain, fields, season, seasons, baseline, least_std=least_std)
        chosen = replace(values, chart="projected")
        return cls(plain.mean, plain.std, plain.valid, values=chosen)

    def restore(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return the directions of restored vectors (..., batch, ambient, node)."""
        return super().restore(self.spread.to(fields) * fields, season)

    def _law(self, season: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (batch, ambient, node) of vectors not learned from."""
        std = self.spread * self.std
        return self.mean.to(like)[season], std.to(like)[season]

    def measure(self, measurement: Measurement) -> Measurement:
        """Return a measurement of directions as one of standardized vectors.

        Raises:
            InputError: If it is not of the nodes themselves.
        """
        season = measurement.season_of(self.seasons)
        mean, std = self._law(season, measurement.values)
        return self._measured(measurement, mean, torch.diag_embed(std.mT.square()))

    def refined(
        self, measurement: Measurement, measured: Measurement, left_out: LeftOut
    ) -> Measurement:
        """Return a measurement of standardized vectors whose lengths the others tell, too.

        The others have the lengths that `measure` gave them, with the errors of these.

        Args:
            measurement: Measurement of directions.
            measured: What `measure` made of it.
            left_out: Function that predicts observed nodes from the others.
        """
        assert measured.season is not None
        mean, std = self._law(measured.season, measured.values)
        pairs = std.mT[..., :, None] * std.mT[..., None, :]
        _, mask, unit, angle = self._seen(measurement)
        length, var = self._lengths(mask, unit, angle, mean, torch.diag_embed(std.mT.square()))
        across = (length.square() + var) * angle.square()
        both = torch.einsum("bin,bjn->bnij", unit, unit)
        eye = torch.eye(unit.shape[1]).to(unit)
        noise = across.mT[..., None] * (eye - both) + var.mT[..., None] * both
        shift, left = left_out(measured, noise / pairs)
        return self._measured(measurement, mean + std * shift, pairs * left)

    def _seen(self, measurement: Measurement) -> tuple[Measurement, Tensor, Tensor, Tensor]:
        """Return a measurement with its seasons, mask, unit vectors and angular noise of nodes."""
        seen, mask, noise = self._own(measurement)
        size = seen.values.norm(dim=1, keepdim=True)
        mask = mask & (size > _CALM)
        first = torch.zeros_like(seen.values[:1, :, :1])
        first[:, 0] = 1.0  # stands where nothing is seen
        unit = torch.where(mask, seen.values / size.clamp(min=_CALM), first)
        return seen, mask, unit, torch.where(mask, noise, 1.0) / self._radius

    def _lengths(
        self, mask: Tensor, unit: Tensor, angle: Tensor, mean: Tensor, cov: Tensor
    ) -> Tensor:
        """Return mean and variance (2, batch, 1, node) of lengths, one and zero where not seen.

        They are given the directions, and laws of mean (batch, ambient, node) and cov (batch, node,
        ambient, ambient).
        """
        there = mask[:, 0]
        found = torch.stack([torch.ones_like(angle), torch.zeros_like(angle)])
        direction, centre = (each.mT[there] for each in (unit, mean))
        length, var = length_given(self._sphere, direction, centre, cov[there], angle[:, 0][there])
        found[0, :, 0][there], found[1, :, 0][there] = length.to(found), var.to(found)
        return found

    def _measured(self, measurement: Measurement, mean: Tensor, cov: Tensor) -> Measurement:
        """Measure vectors, of the mean lengths given their directions and laws; see `_lengths`."""
        seen, mask, unit, angle = self._seen(measurement)
        length, _ = self._lengths(mask, unit, angle, mean, cov)
        centre, std = self._law(seen.season_of(self.seasons), seen.values)
        every = mask.expand(seen.mask.shape)
        return replace(
            seen,
            values=torch.where(every, (length * unit - centre) / std, 0.0),
            mask=every,
            noise_std=torch.where(every, length * angle / std, 1.0),
        )

    @property
    def _sphere(self) -> Sphere:
        manifold = self.values.manifold
        assert isinstance(manifold, Sphere)
        return manifold

    def perturb(self, values: Tensor, noise_std: Tensor, generator: torch.Generator) -> Tensor:
        """Return the directions of vectors, with geodesic noise."""
        return super().perturb(self.values.project(values), noise_std, generator)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the attributes by name, for saving."""
        return super().to_tensors() | {"normals.spread": self.spread}

    @classmethod
    def rebuilt(cls, values: Values, tensors: dict[str, Tensor]) -> Self:
        """Rebuild from values and `to_tensors`."""
        own: Any = {n: tensors[f"normals.{n}"] for n in ("mean", "std", "valid", "spread")}
        return cls(**own, values=values)


def length_given(
    manifold: Sphere, direction: Tensor, mean: Tensor, cov: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Return mean and variance (n,) of the lengths of normal vectors of observed directions.

    With the part a along the direction and b across it, the error of a direction makes
    exp(-|b|^2 / (2 a^2 sigma^2)) of the likelihood, and b integrates out in closed form: the law of
    a > 0 is a^dim N(a) N(0; E[b | a], Cov[b | a] + a^2 sigma^2 I), of which the moments are taken
    by quadrature.

    Args:
        manifold: Sphere of the directions.
        direction: Observed unit vectors (n, ambient).
        mean: Means (n, ambient) of the vectors.
        cov: Covariances (n, ambient, ambient).
        noise: Standard deviation (n,) of the angle's error, in radians.
    """
    direction, mean, cov, noise = (each.double() for each in (direction, mean, cov, noise))
    across = manifold.frame(direction)
    along_mean = (direction * mean).sum(-1, keepdim=True)
    both = torch.einsum("nij,nj->ni", cov, direction)
    var = (direction * both).sum(-1, keepdim=True)
    slope = torch.einsum("nid,ni->nd", across, both) / var
    rest = across.mT @ cov @ across - var[..., None] * slope[:, :, None] * slope[:, None, :]
    spread, axes = torch.linalg.eigh((rest + rest.mT) / 2.0)
    std = var.sqrt()
    low = (along_mean - _WIDE * std).clamp(min=0.0)
    high = torch.maximum(along_mean, torch.zeros_like(std)) + _WIDE * std
    step = (torch.arange(_STEPS).to(std) + 0.5) / _STEPS
    length = low + (high - low) * step  # (n, step)
    away = length - along_mean
    start = torch.einsum("nid,ni->nd", across, mean)
    shift = start[:, None] + away[..., None] * slope[:, None]
    shift = torch.einsum("nde,nsd->nse", axes, shift)
    total = spread.clamp(min=0.0)[:, None] + (length * noise[:, None]).square()[..., None]
    log_weight = (
        manifold.dim * length.log()
        - 0.5 * away.square() / var
        - 0.5 * (shift.square() / total + total.log()).sum(-1)
    )
    share = torch.softmax(log_weight, 1)
    middle = (share * length).sum(1)
    return middle, (share * (length - middle[:, None]).square()).sum(1)
