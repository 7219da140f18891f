"""What the values of a field are: points of a manifold at each node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.catalogue import manifold_from_config
from apsgeo.values.manifold import Manifold
from apsgeo.values.mean import frechet_mean
from apsgeo.values.sphere import Sphere

__all__ = ["Chart", "Values"]

Chart = Literal["auto", "tangent", "embedded", "projected"]

_OFF = 1e-3  # what single precision, and files with four digits, may be off


@dataclass(frozen=True)
class Values:
    """The manifold that a field's values lie on, and how they become ordinary numbers.

    A field is a tensor (batch, ambient, node); see `Manifold` for its numbers.

    Attributes:
        manifold: Manifold of the values.
        chart: "tangent" takes logarithms at the Fréchet mean of each node and season, in frames
            that are parallel from node to node; densities are exact. "embedded" takes the numbers
            of the points themselves, and projects: for directions that are spread all around, which
            have no mean to speak of, or several. "projected" takes vectors, whose lengths the
            history has and observations lack, such as winds. "auto" is "projected" for directions
            that a history gives as vectors of several lengths; "embedded" for those of which more
            than one in twenty is over 90 degrees from the mean; else "tangent".
    """

    manifold: Manifold
    chart: Chart = "auto"

    def __post_init__(self) -> None:
        if self.chart not in get_args(Chart):
            raise InputError(f"chart={self.chart!r}; give one of {', '.join(get_args(Chart))}")
        if self.chart in ("embedded", "projected") and not isinstance(self.manifold, Sphere):
            raise InputError(
                f"chart={self.chart!r} of {self.manifold!r}; only directions have it: use 'tangent'"
            )

    def points(self, fields: Tensor) -> Tensor:
        """Return fields (..., ambient, node) as points (..., node, ambient), and the reverse."""
        return fields.transpose(-1, -2)

    def check(self, fields: Tensor, given: str = "the values") -> None:
        """Check that all values lie on the manifold.

        Args:
            fields: Fields (..., ambient, node), NaN where there is no value.
            given: Name of the fields in messages.

        Raises:
            InputError: If a value does not: how far off the worst is, and what to do.
        """
        points = self.points(fields)
        known = ~points.isnan().any(-1)
        off = self.manifold.off(torch.where(known[..., None], points, 0.0).double())
        off = torch.where(known, off, 0.0)
        wrong = off > _OFF
        if bool(wrong.any()):
            raise InputError(
                f"{given} has {int(wrong.sum())} of {int(known.sum())} values that are not on "
                f"{self.manifold!r}: {self.manifold.why(float(off.max()))}"
            )

    def project(self, fields: Tensor) -> Tensor:
        """Return fields (..., ambient, node) moved onto the manifold, NaN where there is none."""
        points = self.points(fields)
        known = ~points.isnan().any(-1, keepdim=True)
        some = points[known[..., 0]]
        moved = torch.full_like(points, torch.nan)
        moved[known[..., 0]] = self.manifold.project(some)
        return self.points(moved)

    def mean_field(self, fields: Tensor, season: Tensor, seasons: int) -> Tensor:
        """Return the Fréchet mean (season, ambient, node) of fields (record, ambient, node).

        Raises:
            InputError: If the values of a node are balanced, so that they have no mean.
        """
        points = self.points(fields)
        means = [frechet_mean(self.manifold, points[season == s]) for s in range(seasons)]
        return self.points(torch.stack(means))

    def frames(self, mean: Tensor, centre: Tensor, frame: Tensor) -> Tensor:
        """Return frames (..., ambient, dim, node) at points, parallel to one at a centre.

        Args:
            mean: Points (..., ambient, node).
            centre: Centre (ambient,).
            frame: Basis (ambient, dim) of the tangent space at the centre.
        """
        points = self.points(mean)[..., None, :]
        vectors = frame.mT.expand(*points.shape[:-2], -1, -1)
        moved = self.manifold.transport(centre.expand_as(points), points, vectors)
        return moved.movedim(-3, -1).transpose(-3, -2)

    def coordinates(self, mean: Tensor, frames: Tensor, fields: Tensor) -> Tensor:
        """Return log(fields) at a mean field as coordinates (..., dim, node) in its frames."""
        logs = self.manifold.log(self.points(mean), self.points(fields))
        return torch.einsum("...adn,...na->...dn", frames, logs)

    def fields(self, mean: Tensor, frames: Tensor, coordinates: Tensor) -> Tensor:
        """Undo `coordinates`."""
        return self.points(self.manifold.exp(self.points(mean), self._vectors(frames, coordinates)))

    def log_volume(self, mean: Tensor, frames: Tensor, coordinates: Tensor) -> Tensor:
        """Return log |det| (..., node) of exp; see `Manifold.log_volume`."""
        return self.manifold.log_volume(self.points(mean), self._vectors(frames, coordinates))

    def _vectors(self, frames: Tensor, coordinates: Tensor) -> Tensor:
        return torch.einsum("...adn,...dn->...na", frames, coordinates)

    def to_config(self) -> dict[str, Any]:
        """Return what `from_config` rebuilds it of."""
        return {"manifold": self.manifold.to_config(), "chart": self.chart}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Values:
        """Rebuild from `to_config`."""
        return cls(manifold_from_config(config["manifold"]), config["chart"])
