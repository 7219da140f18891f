"""A labelled history with gaps, and the complete one that priors are fitted to."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apsgeo.errors import InputError, SeldomSeenWarning
from apsgeo.gaussian.fit import fit_gaussian
from apsgeo.gaussian.gappy.completion import Gappy, complete_history, complete_records
from apsgeo.gaussian.scales import LocalisedScales
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.labels.records import Records
from apsgeo.measurement import Normals
from apsgeo.measurement.shrunk import LEAST_SEEN

__all__ = ["Filled", "fill_history", "has_gaps", "with_something"]


@dataclass(frozen=True)
class Filled:
    """A history whose gaps are filled with members of the posterior.

    Attributes:
        records: The filled records.
        observed: Mask (record, channel, node), true where a value was observed.
        normals: Normals of the records to learn from.
        provenance: Record of how it was filled.
    """

    records: Records
    observed: Tensor
    normals: Normals
    provenance: dict[str, Any]


def has_gaps(values: Tensor) -> bool:
    """Tell whether values (record, channel, node) are missing at some records only.

    Raises:
        InputError: If values are infinite.
    """
    if bool((infinite := values.isinf()).any()):
        raise InputError(
            f"the history has {int(infinite.sum())} infinite values; set them to NaN where nothing "
            "is known: history.where(np.isfinite(history))"
        )
    missing = values.isnan()
    return bool((missing.any(0) & ~missing.all(0)).any())


def with_something(records: Records, noise: Tensor | None) -> tuple[Records, Tensor | None]:
    """Leave out records of which nothing was observed, and their noise.

    Raises:
        InputError: If nothing was observed at all.
    """
    known = (~records.values.isnan()).flatten(1).any(1)
    if bool(known.all()):
        return records, noise
    if not bool(known.any()):
        raise InputError(f"{records.given} has no values, all are NaN; give one with observations.")
    return records[known.numpy()], noise[known] if noise is not None and noise.ndim == 3 else noise


def fill_history(
    records: Records,
    noise_std: Tensor,
    held_out_from: str | int | None,
    seasons: int,
    *,
    baseline: tuple[str, str] | None = None,
    least_std: float = 1e-3,
    scales: LocalisedScales | None = None,
    rank: int = 400,
    folds: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> Filled:
    """Fill the gaps of a history; see `apsgeo.gaussian.gappy.completion.complete_history`.

    Records that are held out are filled by a prior of those to learn from.

    Args:
        records: The history.
        noise_std: Standard deviation of the observations' error, zero for none, which broadcasts to
            (record, channel, node).
        held_out_from: Date or number of the first record that is held out.
        seasons: Number of seasons.
        baseline: First and last date of the climatological mean.
        least_std: Least standard deviation of a node.
        scales: Scales of the localised prior that fills; by default those it starts from.
        rank: Number of EOFs.
        folds: Contiguous blocks of the history.
        seed: Seed of the members.
        progress: Whether to show bars.

    Warns:
        SeldomSeenWarning: If cells are seen in one record only, and are taken for land.
    """
    domain, values = records.layout.domain, records.values
    earlier = torch.from_numpy(records.parts(held_out_from)[0])
    season = records.season(seasons)
    within = None if baseline is None else torch.from_numpy(records.dates.within(*baseline))
    noise = noise_std.expand_as(values)

    def gappy(at: Tensor) -> Gappy:
        chosen = None if within is None else within[at]
        return Gappy(values[at], noise[at], season[at], seasons, chosen, least_std)

    learned = gappy(earlier)
    scales = LocalisedScales.start(domain) if scales is None else scales
    options: dict[str, Any] = {"seed": seed, "progress": progress}
    found = complete_history(domain, learned, scales, rank=rank, folds=folds, **options)
    _warn_of_land(learned.values, found.normals)
    filled = torch.empty_like(values)
    filled[earlier] = found.fields
    if not bool(earlier.all()):
        anomalies = found.normals.encode(found.fields, learned.season)
        prior = fit_gaussian(
            scales.field(domain),
            anomalies,
            scales,
            rank=rank,
            season=learned.season,
            seasons=seasons,
        )
        held = gappy(~earlier)
        filled[~earlier] = complete_records(VecchiaPrior(prior), held, found.normals, **options)
    observed = ~values.isnan() & found.normals.valid
    return Filled(
        records.filled(filled),
        observed,
        found.normals,
        {
            "observed": float(observed[..., found.normals.valid].double().mean()),
            "patterns": found.patterns.rank,
            "objective": list(found.patterns.objective),
        },
    )


def _warn_of_land(values: Tensor, normals: Normals) -> None:
    """Warn of cells that were seen, but too seldom to learn anything of them."""
    seldom = (~values.isnan()).any(0).any(0) & ~normals.valid
    if count := int(seldom.sum()):
        warnings.warn(
            f"{count} cells of the history are seen in fewer than {LEAST_SEEN} records to learn "
            "from, and are taken for land",
            SeldomSeenWarning,
            stacklevel=4,
        )
