"""Score an ensemble of fields against the truth, record by record."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from apsgeo.domains import Domain
from apsgeo.errors import InputError
from apsgeo.labels.checks import check_units
from apsgeo.labels.layout import Layout, layout_of
from apsgeo.metrics.predictions import EnsemblePrediction
from apsgeo.metrics.scoreboard import Scores, Tally

__all__ = ["score_ensemble"]

_BATCH = 4  # records in memory at once


def score_ensemble(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    observed: xr.DataArray | None = None,
    domain: Domain | None = None,
    *,
    progress: bool = True,
) -> Scores:
    """Score an ensemble over the cells that were not observed, weighted by area.

    The weights are cos(latitude) on a latitude-longitude grid.

    Args:
        ensemble: (member, time, lat, lon), or with the dims of another domain, or without time, in
            any order, two members or more. Channels along a dim channel, band or rgb are pooled.
        truth: Fields on the same domain; latitude may run the other way, and there may be more
            times than the ensemble has. What is NaN does not count.
        observed: What the ensemble was drawn from, NaN where not observed; all cells count by
            default. Times and domain as for ``truth``.
        domain: Where the fields live, if their labels do not say it: `Posterior.domain`.
        progress: Whether to show a bar.

    Returns:
        The scores, in the unit of the data; ``seconds_per_field`` is not known, and 0.

    Raises:
        InputError: If the times or dims do not fit, or no cell is left to score.
        GridError: If the domains differ, or the labels do not say the domain and it is not given.
        UnitsError: If the units differ.
    """
    if "member" not in ensemble.dims:
        raise InputError(f"the ensemble has dims {ensemble.dims}, and 'member' is not among them")
    units = ensemble.attrs.get("units")
    check_units(truth, units, given="the truth", wanted="the ensemble")
    first = ensemble.isel(member=0, drop=True)
    layout = layout_of(first, domain, given="the ensemble")
    like = _records(first, layout)
    ensemble = ensemble if ensemble.ndim > like.ndim else ensemble.expand_dims(like.dims[0])
    ensemble = ensemble.transpose("member", *like.dims)
    truth, of_truth = _aligned(truth, like, layout.domain, "the truth")
    seen = None
    if observed is not None:
        seen = _aligned(observed, like, layout.domain, "what was observed")
    tally, nodes = Tally(), layout.domain.num_nodes
    with tqdm(
        total=len(like), desc="scoring", unit="field", delay=2.0, disable=not progress
    ) as bar:
        for start in range(0, len(like), _BATCH):
            part = slice(start, start + _BATCH)
            expected = _values(of_truth, truth[part])
            members = _values(layout, ensemble[:, part])
            counts = np.isfinite(expected) & np.isfinite(members).all(axis=0)
            if seen is not None:
                counts &= np.isnan(_values(seen[1], seen[0][part]))
            weights = np.where(counts, np.tile(layout.weights, counts.shape[1] // nodes), 0.0)
            scored = (weights > 0).any(axis=1)  # what was observed everywhere has no score
            if scored.any():
                prediction = EnsemblePrediction(members[:, scored])
                tally.add(prediction, expected[scored], weights[scored], 0.0)
            bar.update(len(expected))
    return tally.scores()


def _records(field: xr.DataArray, layout: Layout) -> xr.DataArray:
    """Return a field as (time, *layout.cells), with one record if it has no time."""
    field = layout.ordered(field)
    return field if field.ndim > len(layout.cells) else field.expand_dims("time")


def _values(layout: Layout, field: xr.DataArray) -> NDArray[np.float64]:
    """Return (..., channel * node)."""
    nodes = layout.channel_nodes(field.values).astype(np.float64)
    return nodes.reshape(*nodes.shape[:-2], -1)


def _aligned(
    field: xr.DataArray, like: xr.DataArray, domain: Domain, name: str
) -> tuple[xr.DataArray, Layout]:
    """Return the records of a field in the order of ``like``, and where its nodes are."""
    layout = layout_of(field, domain, given=name, wanted="the ensemble")
    field = _records(field, layout)
    if any("time" not in array.coords or array["time"].ndim != 1 for array in (field, like)):
        if len(field) != len(like):
            raise InputError(
                f"{name} has {len(field)} records and the ensemble {len(like)}, and they have no "
                "times to go by; give the same records"
            )
        return field, layout
    own, wanted = field["time"].to_index(), like["time"].to_index()
    if not own.is_unique:
        raise InputError(f"{name} has repeated times; keep one of each: .drop_duplicates('time')")
    position = own.get_indexer(wanted)
    if (absent := position < 0).any():
        raise InputError(
            f"{name} has no record for {absent.sum()} of the ensemble's {len(wanted)} times, such "
            f"as {wanted[absent][0]}; give one that covers them"
        )
    return field[position], layout
