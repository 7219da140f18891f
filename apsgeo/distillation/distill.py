"""Distill a prior into an amortized posterior: the training of the conditional flow."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor

from apsgeo.device import choose_device, on_device
from apsgeo.distillation.foretell import foretell
from apsgeo.distillation.held_out import calibrate_spread, held_out_score
from apsgeo.distillation.measuring import Noise
from apsgeo.distillation.objective import (
    CRPS,
    Annealing,
    FollowingReverseKL,
    ForwardKL,
    LeadingForwardKL,
    LogDensity,
    Objective,
    PathReverseKL,
    ReverseKL,
    WeightedSum,
)
from apsgeo.distillation.pairs import Batch, PairSet
from apsgeo.distillation.sources import Measuring, Teacher, fields_of_prior, teacher_of
from apsgeo.errors import InputError, PriorDrawsWarning
from apsgeo.flows.build import CouplingSpec, build_flow
from apsgeo.flows.context import site_features
from apsgeo.flows.flow import Flow
from apsgeo.flows.spec import FlowSpec, Site
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.flows.start import Known
from apsgeo.gaussian.draws import WhiteNoise
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.independent import Independent
from apsgeo.labels.quality import checked_history
from apsgeo.labels.records import Records
from apsgeo.measurement import Family
from apsgeo.operators import Operator
from apsgeo.optim.checkpoint import digest
from apsgeo.optim.loop import fit_loop
from apsgeo.optim.training import Training, seeded
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior
from apsgeo.progress import say

__all__ = ["distill"]

Mode = Literal["score", "reverse", "forward", "mixed"]

_MOST_DENSE = 3000  # values of a dense anchor whose density can be had in every training step
_LEADING_WEIGHT = 10.0  # weight of the leading coefficient's likelihood, one among many
_DENSITY_POINTS = 2  # levels or times in one estimate of the prior's log-density


def distill(
    prior: FieldPrior,
    operator: Operator,
    noise_std: float | Tensor | tuple[float, float],
    *,
    history: xr.DataArray | xr.Dataset | None = None,
    measurements: xr.DataArray | xr.Dataset | None = None,
    teacher: Teacher | None = None,
    start: Posterior | None = None,
    objective: Mode = "score",
    spec: FlowSpec | None = None,
    score_weight: float = 1.0,
    score_scales: int = 1,
    annealing: float = 1.0,
    folds: int = 4,
    rounds: int = 8,
    seed: int = 0,
    training: Training = Training(),
    **settings: Any,
) -> Posterior:
    """Train a conditional flow once to sample the posterior of any measurement of a family.

    Args:
        prior: Prior of the fields.
        operator: Operator that measures, or a family of operators, such as
            ``OneOf((Mask(), Downsample(2)))``. Any mask is in the family of any other.
        noise_std: Standard deviation of the noise in the data's units: a number, one for each
            observation (of masks, each node), or one for each channel (channel, 1). From two
            numbers (least, most) a level is drawn log-uniformly for each simulated measurement;
            the posterior's default is then their geometric mean.
        history: Fields to simulate measurements of; by default `prior.history`. Gaps are filled
            with members of the prior's posterior (`FieldPrior.complete`).
        measurements: Real measurements whose truth nobody knows, fields with NaN where nothing was
            observed, like those of `apsgeo.impute`. With objective="reverse", which needs no truth,
            the flow learns from these instead of simulated ones (the paper's unsupervised case).
            The history then only says how wide the members should be.
        teacher: What is measured: "history", or draws of the prior, "diffusion" or "gaussian".
            By default the history, or where there is none the diffusion prior, or else the Gaussian
            one, with a warning. The held-out fields of a history choose the weights, whoever
            teaches.
        start: Posterior whose flow this one goes on from, such as one that another teacher trained;
            by default it starts as the identity on its base. See docs/method.md on stages.
        objective: "score" is the CRPS of the members on simulated pairs; "reverse" the paper's
            amortized KL, "forward" maximum likelihood on the pairs, "mixed" the mean of both.
        spec: Architecture of the flow; by default that of `start`, or `CouplingSpec()`.
        score_weight: Weight of the CRPS of the members in "forward" and "mixed", where likelihood
            alone spends itself on the shortest waves.
        score_scales: Number of scales on which members are scored: at the nodes, and as means over
            groups of nodes, groups of groups and so on. See `apsgeo.distillation.objective.CRPS`.
        annealing: Temperature at which the reverse divergence of "reverse" and "mixed" starts; one
            for no annealing. Above one it keeps a flow from falling into one of several modes; see
            `apsgeo.distillation.objective.Annealing`.
        folds: Number of blocks of the history; measurements of a block meet an anchor that was
            fitted without it. One is for a history that the prior's anchor was not fitted to.
            Draws of the prior, which are no part of it, always meet the anchor itself.
        rounds: Number of measurements simulated of each field.
        seed: Seed of masks, noise and weights.
        training: Settings of the training, by default 2000 steps of 12 pairs. A killed training
            simulates its pairs again before it goes on from its checkpoint. The posterior comes
            back on the CPU; see `Posterior.to`.
        **settings: Settings of the training given by name, which go before those of `training`:
            ``distill(..., steps=500, progress=False)``.

    Returns:
        The posterior, with the weights that score best on held-out fields (at most 160, evenly from
        first to last), be it the untrained ones; with "reverse", which uses no truth, the last
        ones. A factor that depends on the observed share makes the spread of its members agree with
        their error on the held-out fields.

    Raises:
        InputError: If the noise does not fit, the history is not on the prior's grid, the
            objective needs the density of an anchor that is dense and large, `start` has another
            architecture, or measurements come with another objective than "reverse", with operators
            other than masks, or with a range of noise.
    """
    if spec is None and start is not None:
        spec = getattr(start.method, "spec", None)
    spec = spec or CouplingSpec()
    if not (math.isfinite(annealing) and annealing >= 1.0):
        raise InputError(f"annealing={annealing}; give a temperature of at least 1.")
    if measurements is not None and objective != "reverse":
        raise InputError(
            f"measurements= with objective={objective!r}, which needs the truth behind them; use "
            "objective='reverse'."
        )
    _check_density(prior, spec, objective)
    channels = prior.normals.channels
    family = Family(operator, prior.domain)
    for member in operator.typical():
        spec.check(family.on(member))
    noise = Noise.of(noise_std, family, prior.normals.data_channels)
    records = prior.history if history is None else _complete(prior, history, seed)
    training = training.filled(steps=2000, batch=12, settings=settings)
    generator = torch.Generator().manual_seed(seed)
    asked, teacher = teacher, teacher_of(prior, records, teacher)
    if asked is None and teacher != "history" and measurements is None:
        warnings.warn(
            f"no history: the flow learns from draws of the {teacher} prior, which is as good as "
            f"the prior is; give the history that it was fitted to, or teacher={teacher!r} to mean "
            "it",
            PriorDrawsWarning,
            stacklevel=2,
        )
    folds = folds if teacher == "history" else 1
    learned, later = fields_of_prior(prior, records, teacher, folds, generator)
    site = Site(
        prior.domain,
        channels,
        Known(prior.normals, family.features),
        site_features(prior.domain, learned.fields),
        prior.anchor,
        spec.regimes_in(prior.domain, learned.fields),
        prior.memory if learned.time is not None and measurements is None else None,
    )
    with seeded(seed):
        flow = build_flow(site, spec)
    if start is not None:
        _go_on_from(flow, start)
    measuring = Measuring(prior, family, noise, flow, generator, training.progress)
    device = choose_device(training.device)
    loss = _objective(prior, flow, objective, score_weight, score_scales)
    if measurements is None:
        bases = measuring.bases(learned, folds)
        if training.progress:
            with on_device(device, flow, prior.diffusion):
                say(foretell(measuring, learned, bases, rounds, loss, training))
        train = measuring.simulated(learned, bases, rounds)
    else:
        real = prior.records(measurements, "the measurements")
        train = measuring.real(checked_history(real, "flag"))
    held = measuring.held_out(later)
    with on_device(device, flow, prior.diffusion):
        options = {
            "objective": objective,
            "score_weight": score_weight,
            "score_scales": score_scales,
            "annealing": annealing,
        }
        log = _train(prior, flow, loss, train, held, training, seed, options)
        calibrate_spread(prior, flow, held)
    return Posterior(
        domain=prior.domain,
        normals=prior.normals,
        operator=operator,
        method=flow.eval(),
        noise_std=noise.middle,
        units=prior.units,
        variable=prior.variable,
        form=prior.form,
        provenance={
            "prior": prior.provenance,
            **options,
            "steps": training.steps,
            "batch": training.batch,
            "lr": training.lr,
            "folds": folds,
            "rounds": rounds,
            "teacher": teacher,
            "start": None if start is None else start.provenance,
            "measurements": 0 if measurements is None else len(train),
            "seed": seed,
            "log": [{k: v for k, v in row.items() if math.isfinite(v)} for row in log],
        },
    )


def _go_on_from(flow: Flow, start: Posterior) -> None:
    """Give a flow the weights of another one of the same architecture.

    Raises:
        InputError: If it has another one.
    """
    other = start.method
    if not isinstance(other, Flow) or other.spec != flow.spec:
        described = other.spec if isinstance(other, Flow) else other.name
        raise InputError(f"start= is a posterior by {described}, and spec={flow.spec}; use its own")
    weights, theirs = flow.state_dict(), other.state_dict()
    differing = [name for name in weights if weights[name].shape != theirs[name].shape]
    if differing:
        raise InputError(
            f"start= is of another domain or other channels: {differing[0]} has the shape "
            f"{tuple(theirs[differing[0]].shape)}, here {tuple(weights[differing[0]].shape)}"
        )
    flow.load_state_dict(theirs)


def _train(
    prior: FieldPrior,
    flow: Flow,
    loss: Objective,
    train: PairSet,
    held: PairSet,
    training: Training,
    seed: int,
    options: dict[str, Any],
) -> list[dict[str, float]]:
    """Train the flow in place, on its device; return the records of `fit_loop`."""
    steps, batch, objective = training.steps, training.batch, options["objective"]
    assert steps is not None
    assert batch is not None
    anneal = Annealing(options["annealing"], steps)

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        anneal.apply(loss, step)
        drawn = train.draw(batch, CRPS.members, generator).to(flow.device)
        return loss(flow, drawn, flow.condition(drawn.start), generator)

    # Members of several scales are chosen by these; elsewhere the nodes decide.
    wider = loss.wider if isinstance(loss, CRPS) else None

    def validate() -> float:
        return held_out_score(prior, flow, held, wider)

    identity = {"batch": batch, **options}
    if training.checkpoint is not None:
        pairs = [part for each in (*train.groups, *held.groups) for part in each.simulated]
        density = [] if prior.diffusion is None else prior.diffusion.state_dict().values()
        identity["data"] = digest(*pairs, *density, *flow.state_dict().values())
    return fit_loop(
        flow,
        step_fn,
        training,
        # The paper's form is unsupervised: it is returned as training left it.
        validate=None if objective == "reverse" else validate,
        seed=seed,
        description=f"flow ({objective})",
        identity=identity,
    )


def _score(prior: FieldPrior, scales: int) -> CRPS:
    """Return the score of members on some scales, or on as many as the domain has."""
    std = prior.normals.std * prior.normals.valid
    domain = prior.domain
    pools: list[tuple[torch.nn.Module, Tensor]] = []
    while len(pools) + 1 < scales and domain.can_coarsen:
        pools.append((domain.pool(), domain.coarse().areas.float()))
        domain = domain.coarse()
    return CRPS(prior.domain.areas.float() * std, std, pools)


def _objective(
    prior: FieldPrior, flow: Flow, mode: Mode, score_weight: float, score_scales: int
) -> Objective:
    score = _score(prior, score_scales)
    # From N(0, I) it is the paper's own estimate; elsewhere that of less variance.
    paper = isinstance(flow.base, WhiteNoise)
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
            base = batch.base.local if isinstance(batch.base, Independent) else batch.base
            if isinstance(base, SeasonalPrior | VecchiaPrior):
                return base.log_prob(signal, batch.season)
            return prior.anchor.log_prob(signal, batch.season)
        return diffusion.log_density(
            prior.normals, signal, batch.season, generator=generator, points=_DENSITY_POINTS
        )

    return estimate


def _complete(prior: FieldPrior, history: xr.DataArray | xr.Dataset, seed: int) -> Records:
    """Return the records of a history without fill values, and fill its gaps."""
    return prior.complete(checked_history(prior.records(history), "flag"), seed)


def _check_density(prior: FieldPrior, spec: FlowSpec, mode: Mode) -> None:
    if prior.anchor.kind == "random field":
        raise InputError(
            "the prior is a random field, fitted without a history, so there is nothing to train "
            "a flow on; apsgeo.impute(obs) and random_field_posterior(prior) fill gaps with it as "
            "it is, and fit_prior of a history makes a prior to distill."
        )
    values = prior.domain.num_nodes * prior.normals.mean.shape[1]
    dense = spec.base == "anchor" and prior.anchor.kind == "localised" and values > _MOST_DENSE
    if dense and mode != "score":
        raise InputError(
            f"objective={mode!r} needs the density of the anchor in every step, and a localised "
            f"anchor of {values} values is too large for that (at most {_MOST_DENSE}); use "
            "objective='score', or fit_prior(..., anchor_scales=HybridScales())."
        )
