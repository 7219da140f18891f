"""Simulated pairs of field and measurement, with anchors that have not seen the field."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from apsgeo.flows.base import GaussianBase, StandardNormalBase
from apsgeo.operators import Measurement
from apsgeo.priors.normals import Normals

__all__ = ["Batch", "PairSet", "simulate_pairs"]


@dataclass(frozen=True)
class Batch:
    """Pairs that share one base distribution.

    Attributes:
        truth: (batch, channel, node) standardized anomalies.
        measurement: What was simulated of them.
        mean, std: Moments of the base posterior, (batch, channel, node).
        deviations: Draws of the base posterior minus its mean, (member, batch, channel, node).
        season: (batch,).
        base: The base distribution, fitted without these fields.
    """

    truth: Tensor
    measurement: Measurement
    mean: Tensor
    std: Tensor
    deviations: Tensor
    season: Tensor
    base: GaussianBase | StandardNormalBase

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; the season, an index, stays."""
        return replace(
            self,
            truth=self.truth.to(device),
            measurement=self.measurement.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
            deviations=self.deviations.to(device),
        )


@dataclass
class _Group:
    """Pairs of one fold and season that share a mask, and so the base's covariance."""

    times: Tensor
    mask: Tensor
    noise_std: Tensor
    values: Tensor
    mean: Tensor
    std: Tensor
    deviations: Tensor
    fold: int
    season: int


class PairSet:
    """A fixed set of simulated pairs, drawn from in batches."""

    def __init__(
        self,
        fields: Tensor,
        groups: list[_Group],
        bases: Sequence[GaussianBase | StandardNormalBase],
    ) -> None:
        self.fields, self.groups, self.bases = fields, groups, bases
        self._by_fold = [
            [
                (g, i)
                for g, group in enumerate(groups)
                if group.fold == f
                for i in range(len(group.times))
            ]
            for f in range(len(bases))
        ]

    def __len__(self) -> int:
        return sum(len(group.times) for group in self.groups)

    def draw(self, size: int, members: int, generator: torch.Generator) -> Batch:
        """Draw a random batch from one random fold, with `members` base deviations each."""
        fold = int(torch.randint(len(self.bases), (), generator=generator))
        choices = self._by_fold[fold]
        picked = torch.randint(len(choices), (size,), generator=generator).tolist()
        entries = [choices[k] for k in picked]
        stored = self.groups[0].deviations.shape[0]
        kept = torch.rand(stored, generator=generator).argsort()[:members]
        return self._collect(entries, kept, fold)

    def group(self, index: int) -> Batch:
        """Return all pairs of one group with all of its deviations."""
        group = self.groups[index]
        kept = torch.arange(group.deviations.shape[0])
        return self._collect([(index, i) for i in range(len(group.times))], kept, group.fold)

    def _collect(self, entries: list[tuple[int, int]], kept: Tensor, fold: int) -> Batch:
        picked = [(self.groups[g], i) for g, i in entries]
        times = torch.stack([group.times[i] for group, i in picked])
        measurement = Measurement(
            torch.stack([group.values[i] for group, i in picked]),
            torch.stack([group.mask for group, _ in picked]),
            torch.stack([group.noise_std for group, _ in picked]),
        )
        return Batch(
            truth=self.fields[times],
            measurement=measurement,
            mean=torch.stack([group.mean[i] for group, i in picked]),
            std=torch.stack([group.std for group, _ in picked]),
            deviations=torch.stack([group.deviations[kept].float() for group, _ in picked], 1),
            season=torch.tensor([group.season for group, _ in picked]),
            base=self.bases[fold],
        )


def _simulate_group(
    fields: Tensor,
    times: Tensor,
    mask: Tensor,
    noise_std: Tensor,
    base: GaussianBase | StandardNormalBase,
    members: int,
    seed: tuple[int, int, int],
) -> _Group:
    fold, season, key = seed
    generator = torch.Generator().manual_seed(key)
    truth = fields[times]
    noise = noise_std * torch.randn(truth.shape, generator=generator)
    measurement = Measurement(truth + noise, mask.expand_as(truth), noise_std.expand_as(truth))
    posterior = base.posterior(measurement)
    one = Measurement(measurement.values[:1], measurement.mask[:1], measurement.noise_std[:1])
    draws = torch.randn(members, 1, base.noise_dim, generator=generator)
    return _Group(
        times=times,
        mask=measurement.mask[0].clone(),
        noise_std=measurement.noise_std[0].clone(),
        values=measurement.values,
        mean=posterior.mean,
        std=posterior.std()[0],
        deviations=base.posterior(one).deviations(draws)[:, 0].half(),
        fold=fold,
        season=season,
    )


def simulate_pairs(
    fields: Tensor,
    season: Tensor,
    fold: Tensor,
    bases: Sequence[GaussianBase | StandardNormalBase],
    normals: Normals,
    masks: Sequence[Tensor],
    noise_std: Tensor,
    *,
    members: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> PairSet:
    """Simulate one measurement of every field for each of the masks' rounds.

    Records of one fold and season share a mask, hence one factorization.

    Args:
        fields: (time, channel, node) standardized anomalies, float32.
        season: (time,) index of the season.
        fold: (time,) index of the fold.
        bases: One base a fold, fitted without the fields of that fold.
        normals: The normals behind `fields`; they turn the noise into standardized units.
        masks: Boolean (node,) masks, taken in turn by the groups.
        noise_std: (node,) in the units of the data.
        members: Base deviations kept for each group.
        seed: Seeds the noise.
        progress: Show a progress bar.
    """
    jobs = []
    supply = iter(masks)
    cells = [
        ((fold == f) & (season == s)).nonzero()[:, 0]
        for f in range(len(bases))
        for s in range(normals.seasons)
    ]
    rounds = len(masks) // max(1, sum(len(times) > 0 for times in cells))
    for _ in range(rounds):
        for times in cells:
            if len(times):
                jobs.append((times, next(supply)))

    def run(number: int) -> _Group:
        times, mask = jobs[number]
        f, s = int(fold[times[0]]), int(season[times[0]])
        noise = (noise_std / normals.std[s]).float()
        key = (seed * 1_000_003 + number) % (2**63)
        return _simulate_group(fields, times, mask, noise, bases[f], members, (f, s, key))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        numbers = tqdm(
            pool.map(run, range(len(jobs))), total=len(jobs), desc="pairs", disable=not progress
        )
        return PairSet(fields, list(numbers), bases)
