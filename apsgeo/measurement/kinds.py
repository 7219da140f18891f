"""The kinds of normals: which is fitted to what values, and how each is rebuilt."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.measurement.normals import Normals
from apsgeo.measurement.projected import ProjectedNormals
from apsgeo.measurement.quantiles import QuantileNormals
from apsgeo.measurement.valued import EmbeddedNormals, TangentNormals, ValuedNormals, fit_valued
from apsgeo.values.values import Values

__all__ = ["fit_normals", "normals_from"]


_VALUED: dict[str, type[ValuedNormals]] = {
    "tangent": TangentNormals,
    "embedded": EmbeddedNormals,
    "projected": ProjectedNormals,
}


def fit_normals(
    values: Values | None,
    fields: Tensor,
    season: Tensor,
    seasons: int,
    baseline: Tensor | None = None,
    *,
    least_std: float = 1e-3,
    domain: Domain | None = None,
) -> Normals:
    """Fit the normals of fields of numbers, or of points of a manifold; see `Normals.fit`.

    Args:
        values: Manifold of the values, None for numbers.
        fields: Fields (time, channel, node).
        season: Index (time,) of each record's season.
        seasons: Number of seasons.
        baseline: Mask (time,), true for the records that define the mean; all by default.
        least_std: Least standard deviation of a node, in root mean squares of all.
        domain: Domain of the fields, for vectors whose directions are values.
    """
    if values is None:
        return Normals.fit(fields, season, seasons, baseline, least_std=least_std)
    if values.chart == "projected":
        assert domain is not None
        given = (fields, season, seasons, baseline, least_std)
        return ProjectedNormals.fit_to(domain, values, *given)
    return fit_valued(values, fields, season, seasons, baseline, least_std=least_std)


def normals_from(tensors: dict[str, Tensor], config: dict[str, Any] | None = None) -> Normals:
    """Rebuild normals of any kind from `Normals.to_tensors` and `Normals.to_config`."""
    if config is not None:
        values = Values.from_config(config)
        return _VALUED[values.chart].rebuilt(values, tensors)
    bounded = "quantiles.knots" in tensors
    return (QuantileNormals if bounded else Normals).from_tensors(tensors)
