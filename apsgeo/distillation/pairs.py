"""Simulated pairs of a field and a measurement, with bases that have not seen the field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from apsgeo.device import workers
from apsgeo.flows.start import Moments
from apsgeo.gaussian.draws import Base
from apsgeo.gaussian.left_out.refined import refined
from apsgeo.measurement import Measurement, Normals
from apsgeo.operators import LinearMap
from apsgeo.progress import Bar

__all__ = [
    "Batch",
    "PairSet",
    "Setting",
    "measured_pairs",
    "neighbours",
    "simulate_pairs",
]

_SAME_STEP = 0.15  # steps by which the time of a neighbour may be off
_APART = 1e6  # steps between records whose neighbours are their own


@dataclass(frozen=True)
class Setting:
    """One way of measuring.

    Attributes:
        mask: Mask (observation,), true where observed.
        noise_std: Standard deviation of the noise, which broadcasts to (channel, observation), in
            the units of the data.
        operator: Operator that measures, on the domain.
        around: Offsets of neighbouring records that are measured too, and their masks.
    """

    mask: Tensor
    noise_std: Tensor
    operator: LinearMap
    around: tuple[tuple[int, Tensor], ...] = ()


@dataclass(frozen=True)
class Batch:
    """Pairs that share one base distribution and one operator.

    Attributes:
        truth: Standardized anomalies (batch, channel, node), NaN where nobody knows them.
        start: The measurements, and moments of the base given them.
        deviations: Draws (member, batch, channel, node) of the base, minus its mean.
        base: Base of the flow, fitted without these fields.
    """

    truth: Tensor
    start: Moments
    deviations: Tensor
    base: Base

    @property
    def season(self) -> Tensor:
        """Index (batch,) of each record's season."""
        season = self.measurement.season
        return torch.zeros(len(self.truth), dtype=torch.long) if season is None else season

    @property
    def measurement(self) -> Measurement:
        """The measurements of the fields."""
        return self.start.measurement

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return replace(
            self,
            truth=self.truth.to(device),
            start=self.start.to(device),
            deviations=self.deviations.to(device),
        )


@dataclass
class _Group:
    """Pairs of one fold and season that share a setting, and so the base's covariance."""

    times: Tensor
    setting: Setting
    mask: Tensor
    noise_std: Tensor
    values: Tensor
    mean: Tensor
    std: Tensor
    variance: Tensor
    deviations: Tensor
    fold: int
    season: int
    scale: Tensor | None
    sizes: Tensor | None

    @property
    def cell(self) -> tuple[int, int]:
        """The fold and the operator, which a batch has in common."""
        return self.fold, id(self.setting.operator)

    @property
    def simulated(self) -> tuple[Tensor, ...]:
        """The random part: measurements, masks, and draws of the base."""
        return self.values, self.mask, self.deviations


class PairSet:
    """A fixed set of simulated pairs, drawn from in batches.

    Args:
        fields: Fields (record, channel, node).
        groups: The pairs, in the order of folds and seasons.
        bases: One base for each fold.
        ways: Number of groups of each fold and season, which follow each other.
    """

    def __init__(
        self, fields: Tensor, groups: list[_Group], bases: Sequence[Base], ways: int
    ) -> None:
        self.fields, self.groups, self.bases, self.ways = fields, groups, bases, ways
        self._cells: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for g, group in enumerate(groups):
            entries = self._cells.setdefault(group.cell, [])
            entries += [(g, i) for i in range(len(group.times))]

    def __len__(self) -> int:
        return sum(len(group.times) for group in self.groups)

    def draw(self, size: int, members: int, generator: torch.Generator) -> Batch:
        """Draw a random batch of one random fold and operator, with `members` deviations each."""
        cells = list(self._cells.values())
        choices = cells[int(torch.randint(len(cells), (), generator=generator))]
        picked = torch.randint(len(choices), (size,), generator=generator).tolist()
        entries = [choices[k] for k in picked]
        stored = self.groups[0].deviations.shape[0]
        kept = torch.rand(stored, generator=generator).argsort()[:members]
        return self._collect(entries, kept)

    def group(self, index: int) -> Batch:
        """Return all pairs of one group with all of its deviations."""
        group = self.groups[index]
        kept = torch.arange(group.deviations.shape[0])
        return self._collect([(index, i) for i in range(len(group.times))], kept)

    def _collect(self, entries: list[tuple[int, int]], kept: Tensor) -> Batch:
        picked = [(self.groups[g], i) for g, i in entries]
        times = torch.stack([group.times[i] for group, i in picked])
        scales = [group.scale for group, _ in picked if group.scale is not None]
        deviations = torch.stack([group.deviations[kept].float() for group, _ in picked], 1)
        sizes = [group.sizes[i].float() for group, i in picked if group.sizes is not None]
        measurement = Measurement(
            torch.stack([group.values[i] for group, i in picked]),
            torch.stack([group.mask for group, _ in picked]),
            torch.stack([group.noise_std for group, _ in picked]),
            operator=picked[0][0].setting.operator,
            scale=torch.stack(scales) if scales else None,
            season=torch.tensor([group.season for group, _ in picked]),
        )
        return Batch(
            truth=self.fields[times],
            start=Moments(
                measurement,
                mean=torch.stack([group.mean[i] for group, i in picked]),
                deviation=torch.stack([group.std[i] for group, i in picked]),
                variance=torch.stack([group.variance[i] for group, i in picked]),
            ),
            deviations=deviations * torch.stack(sizes) if sizes else deviations,
            base=self.bases[picked[0][0].fold],
        )


def _measure_values(
    truth: Tensor,
    setting: Setting,
    normals: Normals,
    season: Tensor,
    base: Base,
    generator: torch.Generator,
) -> Measurement:
    """Measure the values behind normal numbers (time, channel, node), with noise in their units."""
    values = normals.restore(truth, season)
    values = normals.perturb(values, setting.noise_std, generator)
    mask = (setting.mask & normals.valid).expand_as(values)
    noise = setting.noise_std
    given = Measurement(values.nan_to_num(), mask, noise, operator=setting.operator, season=season)
    return refined(normals, given, normals.measure(given), base)


def _measure(
    truth: Tensor,
    setting: Setting,
    std: Tensor,
    generator: torch.Generator,
) -> Measurement:
    """Measure standardized anomalies (time, channel, node) of one season, with noise.

    With the standard deviation `std` ([time,] channel, node), values of nodes come out
    standardized, other observations in the units of the data, as `Normals.measure` returns them.
    """
    operator, noise_std = setting.operator, setting.noise_std
    if operator.is_identity:
        noise_std, scale, exact = (noise_std / std).float(), None, truth
    else:
        scale = std.expand_as(truth)
        exact = operator.apply(scale * truth)
    noise = noise_std * torch.randn(exact.shape, generator=generator)
    return Measurement(
        exact + noise,
        setting.mask.expand_as(exact),
        noise_std.expand_as(exact),
        operator=operator,
        scale=scale,
    )


def _group(
    measurement: Measurement,
    times: Tensor,
    setting: Setting,
    base: Base,
    functionals: Tensor,
    members: int,
    place: tuple[int, int],
    generator: torch.Generator,
) -> _Group:
    """Solve for the base given measurements of one fold and season (`place`) and setting."""
    fold, season = place
    season_index = torch.full((len(times),), season)
    posterior = base.posterior(replace(measurement, season=season_index))
    moments = Moments.of(posterior, functionals)
    draws = torch.randn(members, posterior.noise_dim, generator=generator)
    sizes, shape = posterior.sizes, moments.deviation.shape
    return _Group(
        times=times,
        setting=setting,
        mask=measurement.mask[0].clone(),
        noise_std=measurement.noise_std[0].clone(),
        values=measurement.values,
        mean=moments.mean,
        std=moments.deviation if sizes is not None else moments.deviation[:1].expand(shape),
        variance=moments.variance,
        deviations=posterior.shared_deviations(draws).half(),
        fold=fold,
        season=season,
        scale=None if measurement.scale is None else measurement.scale[0],
        sizes=None if sizes is None else sizes.half(),
    )


def measured_pairs(
    values: Tensor,
    season: Tensor,
    base: Base,
    normals: Normals,
    setting: Setting,
    *,
    functionals: Tensor,
    instant: Tensor | None = None,
    members: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> PairSet:
    """Return real measurements as pairs whose truth, which nobody knows, is NaN.

    Each measurement has a mask of its own, hence a factorization of its own.

    Args:
        values: Data (record, channel, node) in their units, NaN where not observed, float32.
        season: Index (record,) of each record's season.
        base: Base that was fitted to other fields.
        normals: Normals that standardize values and noise.
        setting: Noise and operator of all measurements; its mask is not used.
        functionals: Functionals of the flow; see `Flow.functionals`.
        instant: Time (record,) of each record, which normals with a trend want.
        members: Number of base deviations kept for each record.
        seed: Seed of the deviations.
        progress: Whether to show a progress bar.
    """
    noise_std = setting.noise_std.expand_as(values)

    def run(record: int) -> _Group:
        at = torch.tensor([record])
        given = Measurement.of(values[at], noise_std[at], setting.operator)
        when = None if instant is None else instant[at]
        given = replace(given, season=season[at], instant=when)
        measured = refined(normals, given, normals.measure(given), base)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + record) % (2**63))
        place = 0, int(season[record])
        return _group(measured, at, setting, base, functionals, members, place, generator)

    with workers() as pool:
        found = pool.map(run, range(len(values)))
        groups = list(Bar(found, total=len(values), name="measurements", enabled=progress))
    return PairSet(torch.full_like(values, torch.nan), groups, [base], ways=1)


Cell = tuple[int, int, Tensor]
"""Fold, season, and indices of records that are measured alike."""


def cells_of(fold: Tensor, season: Tensor, most: int | None = None) -> list[Cell]:
    """Return the records of each fold and season, in parts of at most `most` records.

    Args:
        fold: Index (record,) of each record's fold, -1 for those that are only neighbours.
        season: Index (record,) of each record's season.
        most: Most records of a cell; by default all.
    """
    found = []
    for f in fold[fold >= 0].unique().tolist():
        for s in season.unique().tolist():
            times = ((fold == f) & (season == s)).nonzero()[:, 0]
            found += [(f, s, part) for part in times.split(most or len(times)) if len(part)]
    return found


def neighbours(time: Tensor, index: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Return the place (record,) of the record so many steps from each, and whether it is there.

    Args:
        time: Time (time,) of all records, in steps, ascending.
        index: Indices (record,) of some.
        offset: Number of steps.
    """
    places = index + offset
    inside = (places >= 0) & (places < len(time))
    places = places.clamp(0, len(time) - 1)
    return places, inside & ((time[places] - time[index] - offset).abs() < _SAME_STEP)


def _with_neighbours(
    measured: Measurement,
    times: Tensor,
    series: tuple[Tensor, Tensor],
    setting: Setting,
    measure: Callable[[Tensor, Tensor, Setting], Measurement],
) -> Iterator[tuple[Measurement, Tensor]]:
    """Yield records with their neighbours measured, those together that have the same ones.

    Args:
        measured: Measurements of some records.
        times: Their indices (record,).
        series: Time (time,) in steps, and season (time,), of all fields.
        setting: Masks of the neighbours, beside noise and operator.
        measure: Function that measures fields by index, of seasons, in a setting.

    Yields:
        Measurements, with others around them, and the indices of their records.
    """
    offsets = torch.tensor([offset for offset, _ in setting.around])
    time, season = series
    found = [neighbours(time, times, int(offset)) for offset in offsets]
    places, there = (torch.stack(each, 1) for each in zip(*found, strict=True))
    distinct, which = torch.unique(there, dim=0, return_inverse=True)
    for number, has in enumerate(distinct):
        rows = (which == number).nonzero()[:, 0]
        own = measured[rows]
        parts = [
            measure(
                places[rows, k],
                season[places[rows, k]],
                replace(setting, mask=setting.around[k][1]),
            )
            for k in has.nonzero()[:, 0].tolist()
        ]
        if parts:
            # Each record has neighbours of its own, whose masks are those of its group.
            apart = _APART * torch.arange(len(rows), dtype=torch.float64)
            when = [apart + float(offset) for offset in offsets[has]]
            own = replace(own, time=apart, around=_joined(parts, torch.cat(when)))
        yield own, times[rows]


def _joined(parts: Sequence[Measurement], time: Tensor) -> Measurement:
    scales = [part.scale for part in parts if part.scale is not None]
    return Measurement(
        torch.cat([part.values for part in parts]),
        torch.cat([part.mask for part in parts]),
        torch.cat([part.noise_std for part in parts]),
        operator=parts[0].operator,
        scale=torch.cat(scales) if scales else None,
        time=time,
    )


def simulate_pairs(
    fields: Tensor,
    cells: Sequence[Cell],
    bases: Sequence[Base],
    normals: Normals,
    settings: Sequence[Setting],
    *,
    series: tuple[Tensor, Tensor] | None = None,
    functionals: Tensor | None = None,
    members: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> PairSet:
    """Simulate one measurement of every field for each of the settings' rounds.

    Records of one cell share a setting, hence one factorization.

    Args:
        fields: Standardized anomalies (time, channel, node), float32.
        cells: Fold, season and records of each cell; see `cells_of`.
        bases: One base for each fold, fitted without the fields of that fold.
        normals: Normals behind `fields`, which standardize the noise.
        settings: Settings, of which each cell takes as many, one after the other.
        series: Time (time,) in steps and season (time,) of all fields, by which neighbours are
            found and standardized; without it there are none.
        functionals: Functionals of the flow, whose variance it sees; see `Flow.functionals`.
        members: Number of base deviations kept for each group.
        seed: Seed of the noise.
        progress: Whether to show a progress bar.
    """
    wanted = torch.empty(0, 0) if functionals is None else functionals
    rounds = len(settings) // max(1, len(cells))
    bar = Bar(total=rounds * len(cells), name="simulating observations", enabled=progress)

    def run(number: int) -> list[_Group]:
        """Simulate all rounds of one fold and season, whose base is then at hand."""
        f, s, times = cells[number]
        groups: list[_Group] = []
        for job in range(number * rounds, (number + 1) * rounds):
            key = (seed * 1_000_003 + job) % (2**63)
            generator, setting = torch.Generator().manual_seed(key), settings[job]

            def measure(
                at: Tensor,
                season: Tensor,
                how: Setting = setting,
                base: Base = bases[f],
                generator: torch.Generator = generator,
            ) -> Measurement:
                if normals.linear:
                    return _measure(fields[at], how, normals.std[season], generator)
                return _measure_values(fields[at], how, normals, season, base, generator)

            measured = measure(times, torch.full((len(times),), s))
            each: Iterable[tuple[Measurement, Tensor]] = [(measured, times)]
            if setting.around and series is not None:
                each = _with_neighbours(measured, times, series, setting, measure)
            groups.extend(
                _group(found, where, setting, bases[f], wanted, members, (f, s), generator)
                for found, where in each
            )
            bar.update()
        return groups

    with bar, workers() as pool:
        groups = [group for found in pool.map(run, range(len(cells))) for group in found]
    return PairSet(fields, groups, bases, ways=max(1, rounds))
