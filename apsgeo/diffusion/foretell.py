"""How long a fit will take, said before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from apsgeo.diffusion.fit import train_diffusion
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.domains.base import Domain
from apsgeo.gaussian.fit import fit_gaussian, select_scales
from apsgeo.gaussian.scales import Scales
from apsgeo.optim.training import Training, seeded

__all__ = ["foretell_fit", "minutes", "seconds"]

_EVALUATIONS = 30  # of `select_scales`
_FIELDS = 16  # that a step is timed with


def foretell_fit(
    fields: Tensor,
    starts: Mapping[str, tuple[Domain, Tensor, Scales]],
    spec: DenoiserSpec,
    training: Training,
    search: Mapping[str, Any],
) -> str:
    """Time one evaluation of each search and a few steps, and say how long all will take.

    Validations, and what else runs on the machine later, are not foreseen.

    Args:
        fields: Standardized anomalies (time, channel, node) that are learned from.
        starts: For each search its domain, its fields, and the scales that it starts from.
        spec: Spec of the diffusion prior.
        training: Its training.
        search: Options of the searches.
    """
    options = {**search, "progress": False}
    parts, total = [], 0.0
    for name, (domain, own, start) in starts.items():

        def evaluate(
            count: int, domain: Domain = domain, own: Tensor = own, start: Scales = start
        ) -> None:
            select_scales(domain, own, start, max_evaluations=count, **options)

        first, second = (seconds(partial(evaluate, count)) for count in (1, 2))
        found = first + (_EVALUATIONS - 1) * max(second - first, 0.0)
        parts.append(f"{minutes(found)} for the {name} scales")
        total += found
    if training.steps and starts:
        found = training.steps * _a_step(fields, next(iter(starts.values())), spec, training)
        parts.append(f"{minutes(found)} for {training.steps} steps")
        total += found
    return f"fit: about {minutes(total)} ({', '.join(parts)})" if parts else "fit: seconds"


def _a_step(
    fields: Tensor, first: tuple[Domain, Tensor, Scales], spec: DenoiserSpec, training: Training
) -> float:
    domain, _, start = first
    few = fields[: max(_FIELDS, training.batch or 1)]
    prior = fit_gaussian(start.field(domain, few), few, start, rank=min(20, len(few) - 1))
    none = torch.zeros(0, domain.num_nodes)
    with seeded(0):
        network = spec.build(domain, fields.shape[1], prior.annual, none)

    def train(steps: int) -> None:
        once = Training(steps=steps, batch=training.batch, progress=False, validate_every=steps)
        with torch.random.fork_rng(devices=[]):
            train_diffusion(network, few, few[:1], once)

    train(1)
    less, more = (seconds(partial(train, steps)) for steps in (1, 5))
    return max(more - less, 0.0) / 4


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def minutes(seconds: float) -> str:
    """Write a time as people say it."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
