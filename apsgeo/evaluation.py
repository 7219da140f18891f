"""Score labelled ensembles: by name along any dims, or in one row over what was not observed.

The scores are those of `apsgeo.metrics`. Scores by name take an ensemble with a member dimension
and a truth without, broadcast them by name, and average over ``dim`` with ``weights``. Missing
cells do not count. The truth is converted to the units of the ensemble. Dask arrays stay lazy.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.domains import Domain
from apsgeo.errors import InputError
from apsgeo.labels.channels import as_array
from apsgeo.labels.layout import layout_of
from apsgeo.labels.records import Records
from apsgeo.labels.units import converted
from apsgeo.metrics import scores
from apsgeo.metrics.predictions import EnsemblePrediction
from apsgeo.metrics.scoreboard import Scores, Tally
from apsgeo.progress import Bar

__all__ = [
    "area_weights",
    "coverage",
    "crps",
    "energy_score",
    "rmse",
    "score_ensemble",
    "spread_skill",
]

Dims = Hashable | Iterable[Hashable] | None

_BATCH = 4  # records in memory at once


def score_ensemble(
    ensemble: xr.DataArray | xr.Dataset,
    truth: xr.DataArray | xr.Dataset,
    observed: xr.DataArray | xr.Dataset | None = None,
    domain: Domain | None = None,
    *,
    progress: bool = True,
) -> Scores:
    """Score an ensemble over the cells that were not observed, weighted by `area_weights`.

    Args:
        ensemble: Members (member, time, lat, lon), or with the dims of another domain, or without
            time, in any order; two or more. Channels along a dim channel, band or rgb, or variables
            of a data set, are pooled.
        truth: Fields on the same domain; latitude may run the other way, and there may be more
            times than the ensemble has. What is NaN does not count. Other units are converted.
        observed: Fields that the ensemble was drawn from, NaN where not observed, with times and
            domain as for ``truth``; without them all cells count.
        domain: Domain of the fields, if their labels do not say it; see `Posterior.domain`.
        progress: Whether to show a bar.

    Returns:
        The scores, in the unit of the data; ``seconds_per_field`` is not known, and 0.

    Raises:
        InputError: If the times or dims do not fit, or no cell is left to score.
        GridError: If the domains differ, or the labels do not say the domain and it is not given.
        UnitsError: If the units differ, and it is not known how they are converted.
    """
    for given, fields in (("the ensemble", ensemble), ("the truth", truth)):
        if not isinstance(fields, xr.DataArray | xr.Dataset):
            raise InputError(
                f"{given} is a {type(fields).__name__}; expected an xarray.DataArray or Dataset"
            )
    ensemble = as_array(ensemble)
    if "member" not in ensemble.dims:
        raise InputError(f"the ensemble has dims {ensemble.dims}, and 'member' is not among them")
    first = Records.of(ensemble.isel(member=0, drop=True), domain, given="the ensemble")
    truth = converted(as_array(truth), first.units, given="the truth", wanted="the ensemble")
    truths = _aligned(truth, first, "the truth")
    seen = None if observed is None else _aligned(observed, first, "what was observed")
    drawn = ensemble.transpose("member", *first.array.dims)
    drawn = drawn if first.dim else drawn.expand_dims("time", 1)
    weights, tally = np.tile(first.layout.weights, first.channels), Tally()
    with Bar(total=len(first), name="scoring", unit="field", delay=2.0, enabled=progress) as bar:
        for start in range(0, len(first), _BATCH):
            part = slice(start, start + _BATCH)
            expected = _cells(truths[part])
            members = first.layout.channel_nodes(drawn[:, part].values)
            members = members.reshape(len(members), *expected.shape).astype(np.float64)
            counts = np.isfinite(expected) & np.isfinite(members).all(axis=0)
            if seen is not None:
                counts &= np.isnan(_cells(seen[part]))
            weight = np.where(counts, weights, 0.0)
            scored = (weight > 0).any(axis=1)  # fully observed records have no score
            if scored.any():
                prediction = EnsemblePrediction(members[:, scored])
                tally.add(prediction, expected[scored], weight[scored], 0.0)
            bar.update(len(expected))
    return tally.scores()


def _cells(records: Records) -> NDArray[np.float64]:
    """Return values (record, channel * node)."""
    return records.values.flatten(1).numpy()


def _aligned(fields: xr.DataArray | xr.Dataset, like: Records, given: str) -> Records:
    """Return the records of fields in the order of ``like``."""
    records = Records.of(fields, like.layout.domain, given=given, wanted="the ensemble")
    if records.channels != like.channels:
        raise InputError(
            f"{given} has {records.channels} channels and the ensemble {like.channels}; give the "
            "same ones"
        )
    if not (records.dates.known and like.dates.known) and (
        {records.dates.coordinate, like.dates.coordinate} != {"time"}
    ):
        if len(records) != len(like):
            raise InputError(
                f"{given} has {len(records)} records and the ensemble {len(like)}, and they have "
                "no times to go by; give the same records"
            )
        return records
    records.dates.check_unique()
    place = records.dates.places_of(like.dates)
    if (absent := place < 0).any():
        raise InputError(
            f"{given} has no record for {absent.sum()} of the ensemble's {len(like)} times, such "
            f"as {like.dates.values[absent][0]} ({like.dates.calendar}), but "
            f"{records.dates.names[0]} ({records.dates.calendar}) and others; give one that covers "
            "them. If these are the same records stamped otherwise, say so: "
            ".assign_coords(time=ensemble['time'].values)"
        )
    return records[place]


def area_weights(field: xr.DataArray, domain: Domain | None = None) -> xr.DataArray:
    """Return the weight of each cell in a score: cos(latitude) on a grid, else its area.

    Args:
        field: Fields on a domain, with other dims or without.
        domain: Domain of the fields, if labels do not say it.

    Raises:
        GridError: If labels do not say the domain, or say another.
    """
    layout = layout_of(field, domain)
    coords = {dim: field[dim] for dim in layout.dims if dim in field.coords}
    return xr.DataArray(layout.places(layout.weights), coords, layout.dims, "weights")


def crps(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    member_dim: Hashable = "member",
    keep_attrs: bool = True,
) -> xr.DataArray:
    """Average the fair CRPS over ``dim`` (all of the truth's dimensions by default)."""

    def kernel(members: Any, truth: Any, weights: Any) -> NDArray[np.float64]:
        return scores.weighted_mean(scores.crps_ensemble(members, truth), weights)

    return _apply(kernel, ensemble, truth, dim, weights, member_dim, keep_attrs)


def rmse(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    member_dim: Hashable = "member",
    keep_attrs: bool = True,
) -> xr.DataArray:
    """Compute the root mean squared error of the ensemble mean over ``dim``."""

    def kernel(members: Any, truth: Any, weights: Any) -> NDArray[np.float64]:
        return scores.rmse(members.mean(0), truth, weights)

    return _apply(kernel, ensemble, truth, dim, weights, member_dim, keep_attrs)


def spread_skill(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    member_dim: Hashable = "member",
) -> xr.DataArray:
    """Compute `apsgeo.metrics.scores.spread_skill` over ``dim``; without unit, 1 is calibrated."""
    return _apply(scores.spread_skill, ensemble, truth, dim, weights, member_dim, False)


def coverage(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    level: float = 0.9,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    member_dim: Hashable = "member",
) -> xr.DataArray:
    """Compute the share of ``dim`` whose truth lies in the central interval of ``level``."""
    kernel = partial(scores.coverage, level=level)
    return _apply(kernel, ensemble, truth, dim, weights, member_dim, False)


def energy_score(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    member_dim: Hashable = "member",
    keep_attrs: bool = True,
) -> xr.DataArray:
    """Compute the fair energy score with ``dim`` as the components of one vector."""
    return _apply(scores.energy_score, ensemble, truth, dim, weights, member_dim, keep_attrs)


def _check_labels(
    ensemble: xr.DataArray, truth: xr.DataArray, weights: xr.DataArray, dims: list[Hashable]
) -> None:
    """Check that what is averaged together has the same coordinates.

    Raises:
        InputError: If it has not.
    """
    for name, other in (("ensemble", ensemble), ("weights", weights)):
        for dim in dims:
            both = dim in other.coords and dim in truth.coords
            if other.sizes[dim] != truth.sizes[dim] or (
                both and not np.array_equal(other[dim].values, truth[dim].values)
            ):
                raise InputError(
                    f"{name} and truth have other coordinates {dim!r} ({other.sizes[dim]} and "
                    f"{truth.sizes[dim]}); select the same ones, in the same order, such as "
                    f"truth.sel({dim}={name}[{dim!r}], method='nearest')"
                )


def _apply(
    kernel: Callable[..., NDArray[np.float64]],
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    dim: Dims,
    weights: xr.DataArray | None,
    member_dim: Hashable,
    keep_attrs: bool,
) -> xr.DataArray:
    """Call ``kernel(members (K, ..., N), truth (..., N), weights (..., N))``; N stacks ``dim``."""
    if member_dim not in ensemble.dims or member_dim in truth.dims:
        raise InputError(
            f"ensemble has dimensions {ensemble.dims} and truth {truth.dims}: {member_dim!r} must "
            "be one of the ensemble's and none of the truth's; name it with member_dim=..."
        )
    if dim is None:
        core = list(truth.dims)
    else:
        core = [dim] if isinstance(dim, str) or not isinstance(dim, Iterable) else list(dim)
    absent = [d for d in core if d not in truth.dims or d not in ensemble.dims]
    if absent or not core:
        raise InputError(
            f"dim={dim!r} given, but ensemble has {ensemble.dims} and truth {truth.dims}: "
            "average over dimensions of both"
        )
    truth = converted(truth, ensemble.attrs.get("units"), given="truth", wanted="ensemble")
    weights = xr.ones_like(truth, dtype=np.float64) if weights is None else weights
    weights = weights.broadcast_like(truth).transpose(*truth.dims)

    def flat(members: Any, truth: Any, weights: Any) -> NDArray[np.float64]:
        count = len(core)
        stacked = [a.reshape(*a.shape[: a.ndim - count], -1) for a in (truth, weights)]
        members = members.reshape(*members.shape[: members.ndim - count], -1)
        # apply_ufunc puts the member axis just before the averaged ones.
        members = np.moveaxis(members, -2, 0)
        loops = np.broadcast_shapes(*(a.shape[:-1] for a in (members[0], *stacked)))
        truth, weights = (np.broadcast_to(a, (*loops, a.shape[-1])) for a in stacked)
        members = np.broadcast_to(members, (len(members), *truth.shape))
        return kernel(members, truth, weights)

    _check_labels(ensemble, truth, weights, core)
    score = xr.apply_ufunc(
        flat,
        ensemble,
        truth,
        weights,
        input_core_dims=[[member_dim, *core], core, core],
        join="exact",
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[np.float64],
    )
    return score.assign_attrs(truth.attrs if keep_attrs else {})
