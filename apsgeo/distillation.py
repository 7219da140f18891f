"""Distill a prior into an amortized posterior: the training of the conditional flow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import xarray as xr
from torch import Tensor

from apsgeo.device import choose_device
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.flows.base import Base, GaussianBase, StandardNormalBase
from apsgeo.flows.build import FlowSpec, Spec, build_flow
from apsgeo.flows.context import site_features
from apsgeo.flows.flow import Flow
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.operators import LinearMap, Operator
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior
from apsgeo.priors.gaussian_fit import contiguous_folds
from apsgeo.priors.samplers import DPMSolver
from apsgeo.training.held_out import calibrate_spread, conditioned, held_out_score
from apsgeo.training.loop import fit_loop
from apsgeo.training.objective import (
    CRPS,
    FollowingReverseKL,
    ForwardKL,
    LeadingForwardKL,
    LogDensity,
    Objective,
    PathReverseKL,
    ReverseKL,
    WeightedSum,
)
from apsgeo.training.pairs import Batch, PairSet, Setting, feature_count, simulate_pairs

__all__ = ["distill"]

Mode = Literal["score", "reverse", "forward", "mixed"]

_VALIDATION_MEMBERS = 16
_MOST_HELD_OUT = 160  # records: more would cost as much as the training
_PRIOR_DRAWS = 480
_SAMPLER_STEPS = 20
_SAMPLED_AT_ONCE = 120
_MOST_DENSE = 3000  # values of a dense anchor whose density can be had in every training step
_LEADING_WEIGHT = 10.0  # of the leading coefficient's likelihood, of one among many dimensions
_DENSITY_POINTS = 2  # levels or times in one estimate of the prior's log-density in training


def distill(
    prior: FieldPrior,
    operator: Operator,
    noise_std: float | Tensor | tuple[float, float],
    *,
    history: xr.DataArray | xr.Dataset | None = None,
    objective: Mode = "score",
    spec: Spec | None = None,
    score_weight: float = 1.0,
    steps: int = 2000,
    batch: int = 12,
    lr: float = 1e-3,
    folds: int = 4,
    rounds: int = 8,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> Posterior:
    """Train a conditional flow once to sample the posterior of any measurement of a family.

    Args:
        prior: What fields look like.
        operator: What measures, or a family of what may: ``OneOf((Mask(), Downsample(2)))``. Any
            mask is in the family of any other.
        noise_std: Standard deviation of the noise, a number, one an observation, or one a channel
            (channel, 1), in the data's units; the observations of masks are the nodes. Of two
            numbers (least, most), a level between them, log-uniformly, for each simulated
            measurement; the posterior's default is then their geometric mean.
        history: Complete fields to simulate measurements of; `prior.history` by default, and
            draws of the diffusion prior, or of the Gaussian one if there is no other, where there
            is none.
        objective: "score" is the CRPS of the members on simulated pairs; "reverse" the paper's
            amortized KL, "forward" maximum likelihood on the pairs, "mixed" the mean of both.
        spec: Architecture of the flow.
        score_weight: Weight of the CRPS of the members in the objective, where pairs are used
            in "forward" and "mixed": likelihood alone spends itself on the finest scales.
        steps: Of the optimizer.
        batch: Pairs in a step.
        lr: Peak learning rate.
        folds: Blocks of the history; measurements of a block meet an anchor fitted without it.
        rounds: Measurements simulated of each field.
        seed: Of masks, noise and weights.
        device: Where the networks are trained: "auto", "cpu" or "cuda". The posterior comes back
            on the CPU; see `Posterior.to`.
        progress: Show progress bars.

    Returns:
        The posterior with the weights that score best on held-out fields (at most 160, evenly from
        first to last), the untrained ones among them; with "reverse", which uses no truth, with the
        last ones. Its spread is multiplied by a number, a function of the observed share, that
        makes spread and error of the held-out fields agree.

    Raises:
        InputError: If the noise does not fit, the history is not on the prior's grid, or the
            objective needs the density of an anchor that is dense and large.
    """
    spec = spec or FlowSpec()
    _check_density(prior, spec, objective)
    channels = prior.normals.mean.shape[1]
    family = _Family(operator, prior.domain)
    for member in operator.typical():
        spec.check(family.on(member))
    noise = _Noise.of(noise_std, family, channels)
    history = prior.history if history is None else history
    place = choose_device(device)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    source = _fields(prior, history, folds, generator)
    flow = build_flow(
        prior.domain,
        channels,
        prior.normals.covariate_count + feature_count(operator, channels),
        site_features(prior.domain, source[0].fields),
        spec,
        prior.anchor,
    )
    train, held = _pairs(
        prior, source, family, noise, spec, flow, folds, rounds, generator, progress
    )
    flow.to(place)
    if prior.diffusion is not None:
        prior.diffusion.to(place)
    loss = _objective(prior, flow, objective, score_weight)

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        drawn = train.draw(batch, CRPS.members, generator).to(place)
        return loss(flow, drawn, conditioned(prior, flow, drawn), generator)

    log = fit_loop(
        flow,
        step_fn,
        steps=steps,
        lr=lr,
        # The paper's form is unsupervised: it is returned as training left it.
        validate=None if objective == "reverse" else lambda: held_out_score(prior, flow, held),
        seed=seed,
        progress=progress,
        description=f"flow ({objective})",
    )
    calibrate_spread(prior, flow, held)
    return Posterior(
        domain=prior.domain,
        normals=prior.normals,
        operator=operator,
        flow=flow.eval().cpu(),
        spec=spec,
        noise_std=noise.middle,
        units=prior.units,
        name=prior.name,
        provenance={
            "prior": prior.provenance,
            "objective": objective,
            "score_weight": score_weight,
            "steps": steps,
            "batch": batch,
            "lr": lr,
            "folds": folds,
            "rounds": rounds,
            "seed": seed,
            "log": [{k: v for k, v in row.items() if math.isfinite(v)} for row in log],
        },
    )


@dataclass
class _Family:
    """A family of operators on a domain, whose maps are made once."""

    operator: Operator
    domain: Domain
    maps: dict[Operator, LinearMap] = field(default_factory=dict)

    def on(self, member: Operator) -> LinearMap:
        """Return the map of a member."""
        if member not in self.maps:
            self.maps[member] = member.on(self.domain)
        return self.maps[member]

    def setting(self, member: Operator, mask: Tensor, noise_std: Tensor) -> Setting:
        """Return a way of measuring by a member."""
        return Setting(mask, noise_std, self.on(member), self.operator.features(member))

    def simulate(self, noise: _Noise, generator: torch.Generator) -> Setting:
        """Draw a member, a mask, and a noise level."""
        member = self.operator.draw(generator)
        mask = member.simulate(self.domain, generator)
        return self.setting(member, mask, noise.draw(generator))

    def checks(self, noise: _Noise, rounds: int, generator: torch.Generator) -> list[Setting]:
        """Draw settings of the typical members, at fixed densities and noise, so often each."""
        return [
            self.setting(member, member.at_density(self.domain, density, generator), level)
            for _ in range(rounds)
            for member in self.operator.typical()
            for density in member.held_out_densities
            for level in noise.levels
        ]


@dataclass(frozen=True)
class _Noise:
    """A range of noise levels, whose ends are one where the level is known."""

    least: Tensor
    most: Tensor

    @classmethod
    def of(
        cls, noise_std: float | Tensor | tuple[float, float], family: _Family, channels: int
    ) -> _Noise:
        """Check what a user gave."""
        ends = noise_std if isinstance(noise_std, tuple) else (noise_std, noise_std)
        tensors = [torch.as_tensor(end, dtype=torch.float32) for end in ends]
        if isinstance(noise_std, tuple) and not (len(ends) == 2 and ends[0] < ends[1]):
            raise InputError(f"noise_std={noise_std}; of a range give (least, most).")
        counts = {family.on(member).num_observations for member in family.operator.typical()}
        (nodes,) = counts if len(counts) == 1 else (1,)
        shapes = [(), (nodes,), (channels, 1), (channels, nodes)]
        if any(tuple(end.shape) not in shapes for end in tensors):
            raise InputError(
                f"noise_std has shape {tuple(tensors[0].shape)}; give a number or one an "
                f"observation ({nodes}), or one a channel ({channels}, 1)."
            )
        if not all(bool((torch.isfinite(end) & (end > 0)).all()) for end in tensors):
            raise InputError(f"noise_std must be finite and above zero, got {noise_std}.")
        return cls(*(end.expand(*end.shape[:-1], nodes).clone() for end in tensors))

    @property
    def middle(self) -> Tensor:
        """The geometric mean of the ends."""
        return self.least * (self.most / self.least).sqrt()

    @property
    def levels(self) -> tuple[Tensor, ...]:
        """Those of held-out measurements: ends and middle, or the one that there is."""
        if torch.equal(self.least, self.most):
            return (self.least,)
        return self.least, self.middle, self.most

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw a level log-uniformly."""
        if torch.equal(self.least, self.most):
            return self.least
        place = float(torch.rand((), generator=generator))
        return self.least * (self.most / self.least) ** place


def _objective(prior: FieldPrior, flow: Flow, mode: Mode, score_weight: float) -> Objective:
    weights = prior.domain.areas.float() * prior.normals.std * prior.normals.valid
    score = CRPS(weights)
    # From N(0, I) it is the paper's own estimate; elsewhere that of less variance.
    paper = isinstance(flow.base, StandardNormalBase)
    reverse = (ReverseKL if paper else PathReverseKL)(_log_density(prior))
    if mode == "score":
        return score
    if mode == "reverse":
        return reverse
    terms: dict[Objective, float] = {ForwardKL(): 1.0, score: score_weight}
    if isinstance(flow, SpectralFlow):
        terms[LeadingForwardKL()] = _LEADING_WEIGHT
        reverse = FollowingReverseKL(_log_density(prior))
    if mode == "mixed":
        terms |= {reverse: 0.5} | {each: 0.5 for each in terms if isinstance(each, ForwardKL)}
    return WeightedSum(terms)


def _log_density(prior: FieldPrior) -> LogDensity:
    """Return a cheap estimate of the prior's log-density: the diffusion's, or the anchor's."""
    diffusion = prior.diffusion

    def estimate(signal: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        if diffusion is None:
            anchor = batch.base.prior if isinstance(batch.base, GaussianBase) else prior.anchor
            return anchor.log_prob(signal, batch.season)
        bound = diffusion.elbo if diffusion.anchor is None else diffusion.anchored_log_prob
        return bound(signal, generator=generator, points=_DENSITY_POINTS).value

    return estimate


def _check_density(prior: FieldPrior, spec: Spec, mode: Mode) -> None:
    values = prior.domain.num_nodes * prior.normals.mean.shape[1]
    dense = spec.base == "gaussian" and prior.anchor.kind == "localised" and values > _MOST_DENSE
    if dense and mode != "score":
        raise InputError(
            f"objective={mode!r} needs the density of the anchor in every step, and a localised "
            f"anchor of {values} values is too large for that (at most {_MOST_DENSE}); use "
            "objective='score', or fit_prior(..., anchor_scales=HybridScales())."
        )


def _bases(prior: FieldPrior, fields: Tensor, season: Tensor, spec: Spec, folds: int) -> list[Base]:
    if spec.base == "normal":
        return [StandardNormalBase(fields.shape[1], prior.domain.num_nodes)] * folds
    anchors = prior.cross_fitted(prior.anchor, fields, season, folds)
    return [GaussianBase(anchor) for anchor in anchors]


@dataclass(frozen=True)
class _Fields:
    """Standardized anomalies (record, channel, node), and the seasons of the records."""

    fields: Tensor
    season: Tensor

    def evenly(self, most: int) -> _Fields:
        """Return at most so many of them, evenly from first to last."""
        if len(self.fields) <= most:
            return self
        picked = torch.linspace(0, len(self.fields) - 1, most).long()
        return _Fields(self.fields[picked], self.season[picked])


def _draws(prior: FieldPrior, season: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a field of each season (record,) from the best prior that there is.

    The diffusion prior does not know the season: its draws are of the whole year.
    """
    if prior.diffusion is None:
        return prior.gaussian.sample(season, generator)
    sampler = DPMSolver(steps=_SAMPLER_STEPS)
    blocks = [
        sampler.sample(prior.diffusion, len(part), generator=generator)
        for part in season.split(_SAMPLED_AT_ONCE)
    ]
    return torch.cat(blocks) * prior.normals.valid


def _fields(
    prior: FieldPrior,
    history: xr.DataArray | xr.Dataset | None,
    folds: int,
    generator: torch.Generator,
) -> tuple[_Fields, _Fields]:
    """Return fields to learn from, and others to stop by."""
    if history is None:
        season = torch.arange(_PRIOR_DRAWS) % prior.normals.seasons
        drawn = _draws(prior, season, generator)
        cut = len(drawn) * 9 // 10
        learned, later = (_Fields(drawn[at], season[at]) for at in (slice(cut), slice(cut, None)))
    else:
        learned, later = (
            _Fields(prior.encode(part), prior.season_of(part)) for part in prior.split(history)
        )
    if len(learned.fields) < folds or len(later.fields) == 0:
        raise InputError(
            f"{len(learned.fields)} fields to learn from and {len(later.fields)} held out from "
            f"{prior.held_out_from}; give a history with at least {folds} and 1."
        )
    return learned, later.evenly(_MOST_HELD_OUT)


def _pairs(
    prior: FieldPrior,
    source: tuple[_Fields, _Fields],
    family: _Family,
    noise: _Noise,
    spec: Spec,
    flow: Flow,
    folds: int,
    rounds: int,
    generator: torch.Generator,
    progress: bool,
) -> tuple[PairSet, PairSet]:
    """Simulate measurements to learn from, and others, at fixed densities, to stop by."""
    learned, later = source
    fields, season = learned.fields, learned.season
    seasons = prior.normals.seasons
    settings = [family.simulate(noise, generator) for _ in range(rounds * folds * seasons)]
    train = simulate_pairs(
        fields,
        season,
        contiguous_folds(len(fields), folds),
        _bases(prior, fields, season, spec, folds),
        prior.normals,
        settings,
        functionals=flow.functionals,
        members=2 * CRPS.members,
        seed=int(torch.randint(2**31, (), generator=generator)),
        progress=progress,
    )
    held = simulate_pairs(
        later.fields,
        later.season,
        torch.zeros(len(later.fields), dtype=torch.long),
        [flow.base],
        prior.normals,
        family.checks(noise, seasons, generator),
        functionals=flow.functionals,
        members=_VALIDATION_MEMBERS,
        seed=int(torch.randint(2**31, (), generator=generator)),
        progress=progress,
    )
    return train, held
