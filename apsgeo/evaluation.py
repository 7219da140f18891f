"""Score an ensemble of fields against the truth, record by record."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from apsgeo.checks import check_units, latitude_flipped
from apsgeo.domains.adapters import domain_of, horizontal_dims, ordered
from apsgeo.errors import InputError
from apsgeo.metrics import EnsemblePrediction, Scores
from apsgeo.metrics.labelled import latitude_weights
from apsgeo.metrics.scoreboard import Tally

__all__ = ["score_ensemble"]

_BATCH = 4  # records in memory at once


def score_ensemble(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    observed: xr.DataArray | None = None,
    *,
    progress: bool = True,
) -> Scores:
    """Score an ensemble over the cells that were not observed, weighted by cos(latitude).

    Args:
        ensemble: (member, time, lat, lon) or without time, in any order, two members or more.
        truth: Fields on the same grid; latitude may run the other way, and there may be more times
            than the ensemble has. What is NaN does not count.
        observed: What the ensemble was drawn from, NaN where not observed; all cells count by
            default. Times and grid as for ``truth``.
        progress: Whether to show a bar.

    Returns:
        The scores, in the unit of the data; ``seconds_per_field`` is not known, and 0.

    Raises:
        InputError: If the times or dims do not fit, or no cell is left to score.
        GridError: If the grids differ.
        UnitsError: If the units differ.
    """
    if "member" not in ensemble.dims:
        raise InputError(f"the ensemble has dims {ensemble.dims}, and 'member' is not among them")
    units = ensemble.attrs.get("units")
    check_units(truth, units, given="the truth", wanted="the ensemble")
    like = _records(ensemble.isel(member=0, drop=True))
    ensemble = ensemble if ensemble.ndim == 4 else ensemble.expand_dims(like.dims[0])
    ensemble = ensemble.transpose("member", *like.dims)
    truth = _aligned(truth, like, "the truth")
    seen = None if observed is None else _aligned(observed, like, "what was observed")
    area = latitude_weights(like, horizontal_dims(like)[0]).values
    area = np.repeat(area, like.shape[-1])
    tally = Tally()
    with tqdm(
        total=len(like), desc="scoring", unit="field", delay=2.0, disable=not progress
    ) as bar:
        for start in range(0, len(like), _BATCH):
            part = slice(start, start + _BATCH)
            expected = _flat(truth[part])
            members = ensemble[:, part].values.reshape(-1, *expected.shape)
            counts = np.isfinite(expected) & np.isfinite(members).all(axis=0)
            if seen is not None:
                counts &= np.isnan(_flat(seen[part]))
            weights = np.where(counts, area, 0.0)
            scored = (weights > 0).any(axis=1)  # what was observed everywhere has no score
            if scored.any():
                prediction = EnsemblePrediction(members[:, scored])
                tally.add(prediction, expected[scored], weights[scored], 0.0)
            bar.update(len(expected))
    return tally.scores()


def _records(field: xr.DataArray) -> xr.DataArray:
    """Return a field as (time, lat, lon), with one record if it has no time."""
    field = ordered(field)
    return field if field.ndim == 3 else field.expand_dims("time")


def _flat(field: xr.DataArray) -> NDArray[np.float64]:
    return field.values.reshape(len(field), -1).astype(np.float64)


def _aligned(field: xr.DataArray, like: xr.DataArray, name: str) -> xr.DataArray:
    """Return the records and rows of a field (time, lat, lon) in the order of ``like``."""
    field = _records(field)
    if latitude_flipped(field, domain_of(like), given=name, wanted="the ensemble"):
        field = field[:, ::-1]
    if any("time" not in array.coords or array["time"].ndim != 1 for array in (field, like)):
        if len(field) != len(like):
            raise InputError(
                f"{name} has {len(field)} records and the ensemble {len(like)}, and they have no "
                "times to go by; give the same records"
            )
        return field
    own, wanted = field["time"].to_index(), like["time"].to_index()
    if not own.is_unique:
        raise InputError(f"{name} has repeated times; keep one of each: .drop_duplicates('time')")
    position = own.get_indexer(wanted)
    if (absent := position < 0).any():
        raise InputError(
            f"{name} has no record for {absent.sum()} of the ensemble's {len(wanted)} times, such "
            f"as {wanted[absent][0]}; give one that covers them"
        )
    return field[position]
