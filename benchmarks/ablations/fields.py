"""Ablations on the mixture of two random fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from apsgeo.flows.spectral import SpectralFlow
from apsgeo.measurement import Measurement
from apsgeo.metrics.table import Row
from apsgeo.operators import Block, Swath
from benchmarks.truth.fields import Entry, score_pairs
from benchmarks.truth.mixture import NOISE_STD, MixtureProblem, Pairs
from benchmarks.truth.training import Recipe, train_spectral

_DENSITY = 0.01
_NOISE_FACTORS = (0.25, 1.0, 4.0)
_SIZES: Mapping[str, dict[str, Any]] = {
    "width 160, 6 representers, 16 bins": {},
    "width 20": {"width": 20},
    "width 40": {"width": 40},
    "width 80": {"width": 80},
    "width 320": {"width": 320},
    "1 representer": {"candidates": 1},
    "12 representers": {"candidates": 12},
    "4 bins": {"bins": 4},
}
_MEMBERS = 96


class NoisyProblem(MixtureProblem):
    """The problem with noise that is log-uniform from a quarter to four times the usual."""

    def draw(
        self,
        batch: int,
        generator: torch.Generator,
        density: float | None = None,
        sharing: int = 1,
    ) -> Pairs:
        """Draw fields and measurements; those of a mask share the noise."""
        place = 2.0 * float(torch.rand((), generator=generator)) - 1.0
        pairs = super().draw(batch, generator, density, sharing)
        return _measured(pairs.truth, pairs.measurement.mask, 4.0**place, generator)


def _measured(truth: Tensor, mask: Tensor, factor: float, generator: torch.Generator) -> Pairs:
    """Measure fields where the mask says, with noise of so many times the usual."""
    std = factor * NOISE_STD
    noise = std * torch.randn(truth.shape, generator=generator)
    return Pairs(truth, Measurement(truth + noise, mask, torch.tensor(std)))


def size_rows(
    recipe: Recipe, *, fields: int, seed: int, setting: tuple[int, int] = (8, 12)
) -> list[Row]:
    """Train spectral flows of several sizes alike, with few measurements observed."""
    problem = MixtureProblem(*setting)
    rows = []
    patterns = problem.patterns
    for name, size in (*_SIZES.items(), (f"{patterns // 4} patterns", {"patterns": patterns // 4})):
        torch.manual_seed(seed)
        flow = SpectralFlow(problem.anchor, **{"patterns": patterns, **size})
        seconds = train_spectral(problem, flow, recipe, seed)
        count = sum(p.numel() for p in flow.parameters()) / 1000
        entry = Entry(f"{name}: {count:.0f} thousand weights", flow, seconds)
        generator = torch.Generator().manual_seed(seed + 1)
        pairs = problem.draw(fields, generator, density=_DENSITY)
        rows.append(score_pairs(problem, entry, pairs, "1 % observed", _MEMBERS, seed))
        print(rows[-1], flush=True)
    return rows


def unlike(problem: MixtureProblem, fields: int, seed: int) -> dict[str, Pairs]:
    """Return measurements like those that were learned from, of other noise, and of other masks."""
    generator = torch.Generator().manual_seed(seed)
    points = problem.draw(fields, generator, density=_DENSITY)
    found = {
        f"points, noise × {factor:g}": _measured(
            points.truth, points.measurement.mask, factor, generator
        )
        for factor in _NOISE_FACTORS
    }
    share = 0.05
    for name, masks in (("a region", Block()), ("swaths", Swath())):
        seen = torch.stack(
            [masks.at_density(problem.domain, share, generator) for _ in range(fields)]
        )
        found[f"{name}, {share:.0%} observed"] = _measured(
            points.truth, seen[:, None], 1.0, generator
        )
    return found


def unlike_rows(
    recipe: Recipe, *, fields: int, seed: int, setting: tuple[int, int] = (8, 12)
) -> list[Row]:
    """Try flows that learned from one noise, and from a range of it, on all kinds."""
    problem, noisy = MixtureProblem(*setting), NoisyProblem(*setting)
    entries = [Entry("Gaussian anchor, untrained", problem.anchor)]
    for name, source in (("learned from noise × 1", problem), ("from noise × 1/4 to × 4", noisy)):
        torch.manual_seed(seed)
        flow = SpectralFlow(problem.anchor, problem.patterns)
        seconds = train_spectral(source, flow, recipe, seed)
        entries.append(Entry(name, flow, seconds))
    rows = []
    for name, pairs in unlike(problem, fields, seed + 1).items():
        for entry in entries:
            rows.append(score_pairs(problem, entry, pairs, name, _MEMBERS, seed + 2))
            print(rows[-1], flush=True)
    assert all(math.isfinite(row["kl"]) for row in rows)
    return rows
