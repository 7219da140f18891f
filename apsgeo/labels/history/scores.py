"""A labelled history with gaps and bounds, in the normal scores in which its gaps are filled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from apsgeo.labels.history.gaps import Filled
from apsgeo.labels.records import Records
from apsgeo.measurement import Bounds, QuantileNormals
from apsgeo.measurement.shrunk import shrunk_normals

__all__ = ["fit_quantiles", "from_scores", "in_scores"]


def fit_quantiles(
    records: Records,
    bounds: Sequence[Bounds],
    seasons: int,
    held_out_from: str | int | None,
    baseline: Tensor | None = None,
    *,
    least_std: float = 1e-3,
) -> QuantileNormals:
    """Fit normals and quantiles to what was observed in the records to learn from.

    Args:
        records: The history, NaN where not observed.
        bounds: Bounds of each channel.
        seasons: Number of seasons.
        held_out_from: Date or number of the first record that is held out.
        baseline: Mask (record,) of the records that define the mean; None for all.
        least_std: Least standard deviation of a node.

    Raises:
        InputError: If values are outside the bounds, or no cell is seen twice.
    """
    domain, earlier = records.layout.domain, torch.from_numpy(records.parts(held_out_from)[0])
    values, season = records.values[earlier], records.season(seasons)[earlier]
    within = None if baseline is None else baseline[earlier]
    plain = shrunk_normals(domain, values, season, seasons, within, least_std=least_std)
    return QuantileNormals.of(plain, values, season, list(bounds), domain)


def in_scores(records: Records, normals: QuantileNormals) -> Records:
    """Return records of the normal numbers of the values, NaN where not observed and on land."""
    season = records.season(normals.seasons)
    scores = normals.latent(records.values, season, records.layout.domain)
    return records.filled(torch.where(normals.valid, scores.double(), torch.nan))


def from_scores(records: Records, filled: Filled, normals: QuantileNormals) -> Records:
    """Return records whose gaps hold the values of filled normal numbers.

    Args:
        records: The history.
        filled: What `in_scores` made of it, filled.
        normals: Its normals.
    """
    season, given = records.season(normals.seasons), records.values
    found = normals.restore(filled.records.values.double(), season)
    known = ~given.isnan() & normals.valid
    return records.filled(torch.where(known, given, found).to(given))
