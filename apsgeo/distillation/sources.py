"""Sources of a distillation's pairs: history, draws of the prior, real measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apsgeo.distillation.measuring import Noise, checks, simulate
from apsgeo.distillation.objective import CRPS
from apsgeo.distillation.pairs import PairSet, Setting, measured_pairs, simulate_pairs
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.flow import Flow
from apsgeo.gaussian.draws import Base
from apsgeo.gaussian.fit import contiguous_folds
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.labels.records import Records
from apsgeo.measurement import Family

__all__ = ["Fields", "Measuring", "draws_of_prior", "fields_of_prior"]

_VALIDATION_MEMBERS = 16
_HELD_OUT_GROUPS = 12
_MOST_HELD_OUT = 160  # records; more would cost as much as the training
_PRIOR_DRAWS = 480


@dataclass(frozen=True)
class Fields:
    """Standardized anomalies (record, channel, node), and the seasons of the records."""

    fields: Tensor
    season: Tensor

    def evenly(self, most: int) -> Fields:
        """Return at most `most` fields, evenly from first to last."""
        if len(self.fields) <= most:
            return self
        picked = torch.linspace(0, len(self.fields) - 1, most).long()
        return Fields(self.fields[picked], self.season[picked])


def draws_of_prior(prior: FieldPrior, season: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a field for each season (record,) from the diffusion prior, or else the Gaussian one.

    The diffusion prior does not know the season: its draws are of the whole year.
    """
    if prior.diffusion is None:
        return prior.gaussian.sample(season, generator)
    drawn = prior.diffusion.sample(len(season), generator)
    return drawn * prior.normals.valid


def fields_of_prior(
    prior: FieldPrior,
    history: Records | None,
    folds: int,
    generator: torch.Generator,
) -> tuple[Fields, Fields]:
    """Return fields to learn from, and held-out fields that decide when to stop."""
    if history is None:
        season = torch.arange(_PRIOR_DRAWS) % prior.normals.seasons
        drawn = draws_of_prior(prior, season, generator)
        cut = len(drawn) * 9 // 10
        learned, later = (Fields(drawn[at], season[at]) for at in (slice(cut), slice(cut, None)))
    else:
        learned, later = (
            Fields(prior.encode(part), prior.season_of(part)) for part in prior.split(history)
        )
    if len(learned.fields) < folds or len(later.fields) == 0:
        raise InputError(
            f"{len(learned.fields)} fields to learn from and {len(later.fields)} held out from "
            f"{prior.held_out_from}; give a history with at least {folds} and 1."
        )
    return learned, later.evenly(_MOST_HELD_OUT)


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
        if isinstance(base, VecchiaPrior):
            return [base.of(anchor) for anchor in anchors]
        return anchors

    def simulated(self, learned: Fields, bases: Sequence[Base], rounds: int) -> PairSet:
        """Simulate measurements to learn from, `rounds` of each field, by the bases of its fold."""
        fields, season = learned.fields, learned.season
        count = rounds * len(bases) * self.prior.normals.seasons
        return simulate_pairs(
            fields,
            season,
            contiguous_folds(len(fields), len(bases)),
            bases,
            self.prior.normals,
            [simulate(self.family, self.noise, self.generator) for _ in range(count)],
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
        parts = max(1, min(_HELD_OUT_GROUPS // seasons, len(later.fields) // seasons))
        return simulate_pairs(
            later.fields,
            later.season,
            torch.arange(len(later.fields)) // seasons % parts,
            [self.flow.base] * parts,
            self.prior.normals,
            checks(self.family, self.noise, seasons * parts, self.generator),
            functionals=self.flow.functionals,
            members=_VALIDATION_MEMBERS,
            seed=self._seed(),
            progress=self.progress,
        )

    def _seed(self) -> int:
        return int(torch.randint(2**31, (), generator=self.generator))
