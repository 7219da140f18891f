"""Held-out pairs, which choose a flow's weights and set the spread of its members."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from apsgeo.distillation.objective import fair_crps
from apsgeo.distillation.pairs import Batch, PairSet
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.flow import Conditioning, Flow

__all__ = ["calibrate_spread", "held_out_score", "spread_factors"]

_MOST_CORRECTIONS = 4
_AGREE = 0.01  # largest |log(error / spread)| that is left as it is
_HARM = 1.01  # by which a spread may raise the held-out CRPS

Shown = Callable[[Tensor], Tensor]
"""Return anomalies (..., batch, channel, node) in the units of the data, up to a mean."""


def _held_out(
    prior: FieldPrior, flow: Flow, held: PairSet
) -> Iterator[tuple[Batch, Conditioning, Tensor, Shown]]:
    """Yield each group, its conditioning, the scored area, and what shows its anomalies.

    Hidden nodes are scored; where all nodes are observed, with noise, all are scored.
    """
    area = (prior.domain.areas.float() * prior.normals.valid).to(flow.device)
    for index in range(len(held.groups)):
        batch = held.group(index).to(flow.device)
        hidden = batch.measurement.hidden
        scored = hidden if bool(hidden.any()) else torch.ones_like(hidden)
        yield (
            batch,
            flow.condition(batch.start),
            area * scored,
            partial(prior.normals.scaled, season=batch.season),
        )


def held_out_score(
    prior: FieldPrior,
    flow: Flow,
    held: PairSet,
    wider: Callable[[Tensor, Batch], Tensor | float] | None = None,
) -> float:
    """Return the flow's CRPS relative to its base's on held-out pairs, averaged over masks.

    It is that in the units of the data: rain's zeros are zeros.

    Args:
        prior: Prior of the fields.
        flow: Flow whose members are scored at the hidden nodes.
        held: Held-out pairs.
        wider: Further scores (batch,) of members (member, batch, channel, node); see `CRPS.wider`.
    """
    ratios = []
    for batch, conditioning, hidden, shown in _held_out(prior, flow, held):
        fields, _ = flow.push(batch.deviations, conditioning)
        truth, start = shown(batch.truth), batch.start.mean + batch.deviations
        score = (hidden * fair_crps(shown(fields), truth)).sum()
        base = (hidden * fair_crps(shown(start), truth)).sum()
        if wider is not None:
            score, base = (
                total + torch.as_tensor(wider(members, batch)).sum()
                for total, members in ((score, fields), (base, start))
            )
        ratios.append(float(score / base))
    return sum(ratios) / len(ratios)


@torch.no_grad()
def calibrate_spread(prior: FieldPrior, flow: Flow, held: PairSet) -> None:
    """Set the flow's `spread` so that its members' spread matches their error on held-out pairs.

    The log of the factor is fitted to the log of the observed share by least squares, or by a
    constant where all masks have about the same share. The flow's maps bend, so that its members
    do not widen by just that factor. The rest is corrected again, scaled by how the members
    answered the correction before. Where squares are those of a few extremes, as of rain, members
    may be wider than is good for all others: a spread that harms the CRPS is undone.
    """
    answer, last, before = 1.0, math.nan, flow.spread.clone()
    untouched = held_out_score(prior, flow, held)
    for _ in range(_MOST_CORRECTIONS):
        shares, factors = spread_factors(prior, flow, held)
        mean = float(factors.mean())
        if math.isfinite(last) and abs(last) > _AGREE:
            answer = min(max(answer * (1.0 - mean / last), 0.5), 3.0)
        if abs(mean) < _AGREE and math.isfinite(last):
            break
        slope = np.polyfit(shares, factors, 1)[0] if np.ptp(shares) > math.log(2.0) else 0.0
        flow.spread[0] += float(mean - slope * shares.mean()) / answer
        flow.spread[1] += float(slope) / answer
        last = mean
    if held_out_score(prior, flow, held) > _HARM * untouched:
        flow.spread.copy_(before)


@torch.no_grad()
def spread_factors(prior: FieldPrior, flow: Flow, held: PairSet) -> tuple[np.ndarray, np.ndarray]:
    """Return log(observed share) and log(error / spread) for each way of measuring.

    Squares are summed over all pairs that were measured in that way, since the mean log of the
    ratios of small samples would be too low.
    """
    found = []
    for batch, conditioning, hidden, shown in _held_out(prior, flow, held):
        fields = shown(flow.push(batch.deviations, conditioning)[0])
        error = (hidden * (fields.mean(0) - shown(batch.truth)) ** 2).sum()
        spread = (hidden * fields.var(0)).sum() * (1.0 + 1.0 / len(fields))
        found.append((float(conditioning.log_share.mean()), float(error), float(spread)))
    table = np.array(found).reshape(-1, held.ways, 3)
    squares = table[..., 1:].sum(0)
    return table[..., 0].mean(0), 0.5 * np.log(squares[:, 0] / squares[:, 1])
