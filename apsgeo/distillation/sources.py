"""Sources of a distillation's pairs: history, draws of the prior, real measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from apsgeo.distillation.measuring import Noise, alike, checks, simulate
from apsgeo.distillation.objective import CRPS
from apsgeo.distillation.pairs import (
    Cell,
    PairSet,
    Setting,
    cells_of,
    measured_pairs,
    neighbours,
    simulate_pairs,
)
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.flow import Flow
from apsgeo.gaussian.draws import Base
from apsgeo.gaussian.fit import contiguous_folds
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.independent import Independent
from apsgeo.labels.records import Records
from apsgeo.labels.steps import time_in_steps
from apsgeo.measurement import Family

__all__ = [
    "Fields",
    "Measuring",
    "Teacher",
    "draws_of_prior",
    "fields_of_prior",
    "teacher_of",
]

_VALIDATION_MEMBERS = 16
_HELD_OUT_GROUPS = 12
_MOST_HELD_OUT = 160  # records; more would cost as much as the training
_PRIOR_DRAWS = 480
_SHARING = 16  # records that share a mask, and so a factor
_MOST_MASKS = 256  # beyond which more records share one


@dataclass(frozen=True)
class Fields:
    """Standardized anomalies to learn from.

    Attributes:
        fields: Anomalies (record, channel, node).
        season: Index (record,) of each record's season.
        time: Time (record,) of each in steps, or None where they do not follow each other.
        picked: Which (record,) are learned from, the others being neighbours only; None for all.
    """

    fields: Tensor
    season: Tensor
    time: Tensor | None = None
    picked: Tensor | None = None

    def evenly(self, most: int) -> Fields:
        """Return at most `most` fields, evenly from first to last, and what is around them."""
        if len(self.fields) <= most:
            return self
        chosen = torch.linspace(0, len(self.fields) - 1, most).long()
        if self.time is None:
            return Fields(self.fields[chosen], self.season[chosen])
        picked = torch.zeros(len(self.fields), dtype=torch.bool)
        picked[chosen] = True
        return replace(self, picked=picked)

    def only(self, picked: Tensor) -> Fields:
        """Return those that are true in `picked` (record,), and what is around them."""
        if self.time is None:
            return Fields(self.fields[picked], self.season[picked])
        return replace(self, picked=picked)

    def with_all_around(self, window: int) -> Fields:
        """Return those with all neighbours; without times, if there are none with them."""
        if self.time is None or window == 0:
            return self
        picked = torch.ones(len(self.fields), dtype=torch.bool)
        for offset in (*range(-window, 0), *range(1, window + 1)):
            picked &= neighbours(self.time, torch.arange(len(self.fields)), offset)[1]
        if self.picked is not None:
            picked &= self.picked
        return replace(self, picked=picked) if bool(picked.any()) else replace(self, time=None)

    @property
    def series(self) -> tuple[Tensor, Tensor] | None:
        """Times and seasons, None where records do not follow each other."""
        return None if self.time is None else (self.time, self.season)

    @property
    def count(self) -> int:
        """Number of fields to learn from."""
        return len(self.fields) if self.picked is None else int(self.picked.sum())

    def in_folds(self, fold: Tensor) -> Tensor:
        """Put the folds (count,) of those to learn from among -1 (record,) for the others."""
        if self.picked is None:
            return fold
        return torch.full((len(self.fields),), -1).masked_scatter(self.picked, fold)


Teacher = Literal["history", "diffusion", "gaussian"]
"""What the fields to learn from are: the history, or draws of one of the priors."""


def teacher_of(prior: FieldPrior, history: Records | None, teacher: Teacher | None) -> Teacher:
    """Return the teacher: by default the history, or else the diffusion prior, or the Gaussian.

    Raises:
        InputError: If there is none of that name.
    """
    there: dict[Teacher, bool] = {
        "history": history is not None,
        "diffusion": prior.diffusion is not None,
        "gaussian": True,
    }
    if teacher is None:
        return next(name for name, is_there in there.items() if is_there)
    if not there.get(teacher, False):
        raise InputError(
            f"teacher={teacher!r}; here there are {', '.join(n for n, has in there.items() if has)}"
        )
    return teacher


def draws_of_prior(
    prior: FieldPrior, teacher: Teacher, season: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw a field for each season (record,) from the diffusion prior or the Gaussian one.

    The diffusion prior of numbers does not know the season: its draws are of the whole year.
    """
    if teacher == "gaussian":
        return prior.gaussian.sample(season, generator)
    assert prior.diffusion is not None
    return prior.diffusion.anomalies(prior.normals, season, generator)


def fields_of_prior(
    prior: FieldPrior,
    history: Records | None,
    teacher: Teacher,
    folds: int,
    generator: torch.Generator,
) -> tuple[Fields, Fields]:
    """Return fields to learn from, and held-out fields that decide when to stop.

    The latter are of the history wherever there is one.
    """
    past, later = None, None
    if history is not None:
        past, later = (
            Fields(prior.encode(part), prior.season_of(part), _time_of(prior, part))
            for part in prior.split(history)
        )
    if teacher == "history":
        learned = past
    else:
        season = torch.arange(_PRIOR_DRAWS) % prior.normals.seasons
        drawn = draws_of_prior(prior, teacher, season, generator)
        cut = len(drawn) if later is not None else len(drawn) * 9 // 10
        learned = Fields(drawn[:cut], season[:cut])
        later = later or Fields(drawn[cut:], season[cut:])
    assert learned is not None
    assert later is not None
    if len(learned.fields) < folds or len(later.fields) == 0:
        raise InputError(
            f"{len(learned.fields)} fields to learn from and {len(later.fields)} held out from "
            f"{prior.held_out_from}; give a history with at least {folds} and 1."
        )
    return learned, later.evenly(_MOST_HELD_OUT)


def _time_of(prior: FieldPrior, records: Records) -> Tensor | None:
    """Return the time of records in steps of the prior's memory, if it has one."""
    if prior.memory is None:
        return None
    return time_in_steps(records.dates, prior.memory.step_days)


@dataclass(frozen=True)
class Measuring:
    """The way that measurements are made of fields for a flow.

    Attributes:
        prior: Prior of the fields.
        family: Family of the operators that may measure.
        noise: Range of the measurements' noise.
        flow: Flow whose functionals' variance is computed.
        generator: Generator of masks, noise and draws.
        progress: Whether to show progress bars.
    """

    prior: FieldPrior
    family: Family
    noise: Noise
    flow: Flow
    generator: torch.Generator
    progress: bool

    def bases(self, learned: Fields, folds: int) -> Sequence[Base]:
        """Return one base for each fold: the flow's own, or ones fitted without the fold."""
        base, prior = self.flow.base, self.prior
        if folds == 1 or self.flow.anchor is not prior.anchor:
            return [base] * folds
        anchors = prior.cross_fitted(prior.anchor, learned.fields, learned.season, folds)
        if isinstance(base, VecchiaPrior | Independent):
            return [base.of(anchor) for anchor in anchors]
        return anchors

    def cells(self, learned: Fields, folds: int) -> list[Cell]:
        """Return the fold, season and records of those records that are measured alike.

        They are few where masks, operators or the noise are drawn, and one where the noise of a
        standardized value depends on the value.
        """
        fold = learned.in_folds(contiguous_folds(learned.count, folds))
        if not self.prior.normals.shared_noise:
            return cells_of(fold, learned.season, 1)
        seeds = (torch.Generator().manual_seed(seed) for seed in range(3))
        first, *others = (simulate(self.family, self.noise, each) for each in seeds)
        few = max(_SHARING, math.ceil(learned.count / _MOST_MASKS))
        most = None if all(alike(first, each) for each in others) else few
        return cells_of(fold, learned.season, most)

    def simulated(self, learned: Fields, bases: Sequence[Base], rounds: int) -> PairSet:
        """Simulate measurements to learn from, `rounds` of each field, by the bases of its fold."""
        cells, window = self.cells(learned, len(bases)), self._window(learned)
        settings = [
            simulate(self.family, self.noise, self.generator, window)
            for _ in range(rounds * len(cells))
        ]
        return simulate_pairs(
            learned.fields,
            cells,
            bases,
            self.prior.normals,
            settings,
            series=learned.series,
            functionals=self.flow.functionals,
            members=2 * CRPS.members,
            seed=self._seed(),
            progress=self.progress,
        )

    def real(self, measurements: Records) -> PairSet:
        """Check real measurements to learn from, and solve for the base of each."""
        prior, family = self.prior, self.family
        members = family.operator.typical()
        if not all(family.on(each).is_identity for each in members):
            raise InputError(
                f"measurements= with {family.operator!r}: fields with gaps are measured by a mask; "
                "use Mask(), or leave them out to learn from simulated measurements."
            )
        if len(self.noise.levels) > 1:
            raise InputError("measurements= needs one noise_std, that of these measurements.")
        values, season = measurements.values, prior.season_of(measurements)
        if bool(values.isinf().any()):
            raise InputError("the measurements have infinite values; use NaN where none was made.")
        if not bool((~values.isnan()).flatten(1).any(1).all()):
            raise InputError(
                "some of the measurements are empty, all NaN; leave these records out."
            )
        nothing = torch.ones(prior.domain.num_nodes, dtype=torch.bool)
        return measured_pairs(
            values.float(),
            season,
            self.flow.base,
            prior.normals,
            Setting(nothing, self.noise.least, family.on(members[0])),
            instant=measurements.instants,
            functionals=self.flow.functionals,
            members=2 * CRPS.members,
            seed=self._seed(),
            progress=self.progress,
        )

    def held_out(self, later: Fields) -> PairSet:
        """Simulate measurements at fixed densities, which decide when to stop and set the spread.

        Records are measured in a dozen groups, each by masks of its own, several for one season.
        """
        seasons = self.prior.normals.seasons
        later = later.with_all_around(self._window(later))
        parts = max(1, min(_HELD_OUT_GROUPS // seasons, later.count // seasons))
        part = torch.arange(later.count) // seasons % parts
        cells = cells_of(
            later.in_folds(part), later.season, None if self.prior.normals.shared_noise else 1
        )
        return simulate_pairs(
            later.fields,
            cells,
            [self.flow.base] * parts,
            self.prior.normals,
            checks(self.family, self.noise, len(cells), self.generator, self._window(later)),
            series=later.series,
            functionals=self.flow.functionals,
            members=_VALIDATION_MEMBERS,
            seed=self._seed(),
            progress=self.progress,
        )

    def _window(self, fields: Fields) -> int:
        """Return the number of neighbours on either side that are measured with each field."""
        return 0 if fields.time is None or self.flow.memory is None else self.flow.memory.window

    def _seed(self) -> int:
        return int(torch.randint(2**31, (), generator=self.generator))
