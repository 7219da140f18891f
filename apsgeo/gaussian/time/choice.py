"""Whether neighbouring records help: predictions of held-out records with and without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Measurement
from apsgeo.metrics.scores import crps_normal
from apsgeo.operators.base import HELD_OUT_DENSITIES

__all__ = ["Choice", "Series", "choose_memory"]

Array = NDArray[np.float64]

LESS = (0.75, 0.5, 0.25)
"""Shares of the correlation with other records that are tried, beside all of it."""
_RECORDS = 16  # records that are predicted
_TARGETS = 48  # nodes at which they are
_HARM = 0.005  # by which the CRPS may be above that without neighbours at any density
_NOISE = 0.1  # noise of the simulated measurements, in standard deviations of a node


@dataclass(frozen=True)
class Series:
    """Standardized anomalies of records that follow each other.

    Attributes:
        fields: Anomalies (record, channel, node).
        time: Time (record,) of each, in steps.
        season: Index (record,) of each record's season.
        wander: Standard deviation (record,) of the trend's amplitude, if there is a trend.
        observed: Which values (record, channel, node) were observed; None for all.
    """

    fields: Tensor
    time: Tensor
    season: Tensor
    wander: Tensor | None = None
    observed: Tensor | None = None

    def measured(self, density: float, area: Tensor, generator: torch.Generator) -> Measurement:
        """Simulate a measurement of all records: each has a mask and noise of its own."""
        shape = self.fields.shape
        chance = density * area / area[area > 0].mean()
        mask = torch.rand(shape[0], 1, shape[2], generator=generator) < chance
        mask = mask.expand(shape)
        if self.observed is not None:
            mask = mask & self.observed
        noise = _NOISE * torch.randn(shape, generator=generator)
        return Measurement(
            self.fields + noise,
            mask,
            torch.tensor(_NOISE),
            season=self.season,
            wander=self.wander,
            time=self.time,
        )


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what it was chosen by.

    Attributes:
        memory: The memory, of which a share is kept; None if neighbouring records do not help.
        scores: Of each memory that was tried, its share that is kept, whether it is split, the
            CRPS of held-out predictions over that without neighbours, its standard error, the
            most at any density, and the gain of the log score in nats a value.
        records: Number of records that were predicted.
    """

    memory: Memory | None
    scores: list[dict[str, Any]]
    records: int

    def __str__(self) -> str:
        if self.memory is None:
            return f"neighbouring records are left out: they help none of {self.records} held out"
        used = f"{100 * self.memory.kept:.0f} % of what they tell"
        if self.memory.split is not None:
            used += ", large scales and small ones apart"
        gain = 100.0 * (self._score["crps"] - 1.0)
        return f"neighbouring records are used ({used}): CRPS of held-out records {gain:+.1f} %"

    @property
    def _score(self) -> dict[str, Any]:
        assert self.memory is not None
        which = self.memory.kept, self.memory.split is not None
        return next(score for score in self.scores if (score["kept"], score["split"]) == which)

    @property
    def provenance(self) -> dict[str, Any]:
        """A JSON-able record."""
        kept = 0.0 if self.memory is None else self.memory.kept
        split = self.memory is not None and self.memory.split is not None
        return {"kept": kept, "split": split, "records": self.records, "held_out": self.scores}


def choose_memory(
    anchor: SeasonalPrior,
    memories: Sequence[Memory],
    series: Series,
    scored: Tensor,
    valid: Tensor,
    seed: int = 0,
) -> Choice:
    """Keep as much of a memory as predicts records best to which a prior was not fitted.

    What a record's neighbours tell is told by correlations that were found value by value. Where
    they promise too much of some scales, neighbours do harm. So records are measured, 1, 5 and 30 %
    of their values, each like its neighbours, and hidden values are predicted by the local Gaussian
    posterior, without neighbours and with each memory, and then with several shares of the better
    one. That with the least CRPS is chosen of those whose CRPS is below that without neighbours by
    more than the standard error, is above it at no density by half a percent, and whose log score
    is no worse. If there is none, there is no memory.

    Args:
        anchor: The Gaussian prior, fitted to other records.
        memories: The memories to choose from.
        series: The records, and those around them.
        scored: Places (record,) of those that are predicted, of which it takes 24 at most.
        valid: Nodes (node,) that have values.
        seed: Seed of masks, noise and nodes.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(scored) > _RECORDS:
        scored = scored[torch.linspace(0, len(scored) - 1, _RECORDS).long()]
    area = anchor.domain.areas.double() * valid
    count = min(_TARGETS, int((area > 0).sum()))
    nodes = torch.multinomial(area, count, generator=generator).sort().values
    trials = [
        _Trial.of(series.measured(density, area, generator).among(scored), series, scored, nodes)
        for density in HELD_OUT_DENSITIES
    ]
    alone = _scored(VecchiaPrior(anchor), trials)
    tried: list[tuple[Memory, _Score]] = []

    def tries(memory: Memory) -> _Score:
        score = _Score.of(_scored(VecchiaPrior(anchor, memory), trials), alone)
        tried.append((memory, score))
        return score

    form = min(memories, key=lambda memory: tries(memory).crps)
    for kept in LESS:
        least = min(score.crps for _, score in tried)
        score = tries(replace(form, kept=kept))
        if score.crps > least and any(each.helps for _, each in tried):
            break
    helping = [(memory, score) for memory, score in tried if score.helps]
    best = min(helping, key=lambda each: each[1].crps)[0] if helping else None
    rows = [
        {"kept": memory.kept, "split": memory.split is not None, **vars(score)}
        for memory, score in tried
    ]
    return Choice(best, rows, len(scored))


@dataclass(frozen=True)
class _Trial:
    """Measurements of one density, and what is predicted from them.

    Attributes:
        seen: Measurements of the records, with those around them.
        nodes: Nodes (n,) at which they are predicted.
        truth: Truth (record, channel, n) there.
        weight: Whether it counts: observed by the history, and hidden.
    """

    seen: Measurement
    nodes: Tensor
    truth: Tensor
    weight: Tensor

    @classmethod
    def of(cls, seen: Measurement, series: Series, scored: Tensor, nodes: Tensor) -> _Trial:
        weight = ~seen.mask[..., nodes]
        if series.observed is not None:
            weight &= series.observed[scored][..., nodes]
        return cls(seen, nodes, series.fields[scored][..., nodes], weight)


@dataclass(frozen=True)
class _Score:
    """The score of a memory; see `Choice`."""

    crps: float
    error: float
    most: float
    log_score: float

    @classmethod
    def of(cls, found: Array, alone: Array) -> _Score:
        """Compare CRPS and log scores (score, density, record) with those without neighbours."""
        change = (found[0] - alone[0]) / alone[0].mean(-1, keepdims=True)
        each = change.mean(0)
        error = float(each.std(ddof=1)) / math.sqrt(len(each))
        gain = float((found[1] - alone[1]).mean())
        return cls(1.0 + float(each.mean()), error, 1.0 + float(change.mean(1).max()), gain)

    @property
    def helps(self) -> bool:
        """Whether it is better, by more than chance, and worse at no density."""
        return self.crps + self.error < 1.0 and self.most <= 1.0 + _HARM and self.log_score >= 0.0


def _scored(method: VecchiaPrior, trials: Sequence[_Trial]) -> Array:
    """Return the CRPS and the log score (score, density, record) of a method."""
    found = []
    for trial in trials:
        law = method.marginals_at(trial.seen, trial.nodes)
        found.append(np.stack(_scores(*law, trial.truth, trial.weight)))
    return np.stack(found, 1)


def _scores(mean: Tensor, std: Tensor, truth: Tensor, weight: Tensor) -> tuple[Array, Array]:
    """Return the CRPS and the log score (record,) of normal predictions."""
    mean_, std_, truth_ = (each.double().flatten(1).numpy() for each in (mean, std, truth))
    share = weight.double().flatten(1).numpy()
    share = share / np.maximum(share.sum(1, keepdims=True), 1.0)
    std_ = np.maximum(std_, 1e-6)
    log = -0.5 * ((truth_ - mean_) / std_) ** 2 - np.log(std_) - 0.5 * math.log(2.0 * math.pi)
    return (share * crps_normal(mean_, std_, truth_)).sum(1), (share * log).sum(1)
