"""The memory of a labelled history, kept as far as it predicts held-out records."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.gaussian.fit import fit_gaussian
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.time.choice import Choice, Series, choose_memory
from apsgeo.gaussian.time.lasting import Lasting
from apsgeo.gaussian.time.memory import Memory
from apsgeo.labels.records import Records
from apsgeo.labels.steps import step_days, time_in_steps
from apsgeo.measurement import Normals

__all__ = ["fit_memory"]

_FEWEST = 12  # held-out records by which a memory is judged
_PART = 5  # else the last fifth of the history, by a prior that was fitted to the others


def fit_memory(
    anchor: SeasonalPrior,
    normals: Normals,
    learned: Records,
    held: Records,
    *,
    rank: int,
    observed: Tensor | None = None,
    seed: int = 0,
) -> Choice | None:
    """Fit the memory of a history; see `choose_memory` for how much of it is kept.

    None if there is hardly any, without dates, and for windows of times.

    Args:
        anchor: Gaussian prior of the records to learn from.
        normals: Normals.
        learned: Records to learn from.
        held: Records that are held out.
        rank: Number of EOFs of the prior.
        observed: Which values (record, channel, node) of all records were observed, in the order of
            `learned`, then `held`; None for all.
        seed: Seed of simulated measurements.
    """
    step = step_days(learned.dates)
    if step is None or "lag" in learned.array.dims:
        return None
    parts = [part for part in (learned, held) if len(part.dates)]
    season = torch.cat([part.season(normals.seasons) for part in parts])
    instants = torch.cat([part.instants for part in parts])
    values = torch.cat([part.values for part in parts])
    series = Series(
        fields=normals.latent(values, season, learned.layout.domain, instants),
        time=torch.cat([time_in_steps(part.dates, step) for part in parts]),
        season=season,
        wander=None if normals.trend is None else normals.trend.wander(instants),
        observed=observed,
    )
    domain, count = learned.layout.domain, len(learned)
    known, time = series.fields[:count], series.time[:count].numpy()
    memory = Memory.fit(domain, known, time, step_days=step)
    if memory is None:
        return None
    memories = [memory]
    lasting = Lasting.of(domain, anchor.eofs, time)
    if lasting is not None:
        apart = memory.splitted(domain, anchor.annual, known, time, lasting)
        memories += [] if apart is None else [apart]
    if len(values) - count < _FEWEST:
        count = min(count, len(values) - max(_FEWEST, len(values) // _PART))
        if count < 3:
            return None
        fields = series.fields[:count]
        without = fit_gaussian(
            anchor.scales.relearn(anchor.field, fields),
            fields,
            anchor.scales,
            rank=rank,
            season=season[:count],
            seasons=normals.seasons,
        )
        without.drift, without.spread = anchor.drift, anchor.spread
        anchor = without
    scored = torch.arange(count, len(values))
    return choose_memory(anchor, memories, series, scored, normals.valid, seed)
