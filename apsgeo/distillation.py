"""Distill a prior into an amortized posterior: the training of the conditional flow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from apsgeo.device import choose_device
from apsgeo.errors import InputError
from apsgeo.flows.base import Base, GaussianBase, StandardNormalBase
from apsgeo.flows.build import FlowSpec, build_flow
from apsgeo.flows.context import site_features
from apsgeo.flows.flow import ConditionalFlow, Conditioning
from apsgeo.operators import LinearMap, Operator
from apsgeo.operators.mask import HELD_OUT_DENSITIES
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior
from apsgeo.priors.gaussian_fit import contiguous_folds
from apsgeo.training.loop import fit_loop
from apsgeo.training.objective import (
    CRPS,
    ForwardKL,
    LogDensity,
    Objective,
    ReverseKL,
    WeightedSum,
    fair_crps,
)
from apsgeo.training.pairs import Batch, PairSet, simulate_pairs

__all__ = ["distill"]

Mode = Literal["score", "reverse", "forward", "mixed"]

_VALIDATION_MEMBERS = 16
_PRIOR_DRAWS = 480
_MOST_DENSE = 3000  # values of a dense anchor whose density can be had in every training step
_DENSITY_POINTS = 2  # levels or times in one estimate of the prior's log-density in training


def distill(
    prior: FieldPrior,
    operator: Operator,
    noise_std: float | Tensor,
    *,
    history: xr.DataArray | xr.Dataset | None = None,
    objective: Mode = "score",
    spec: FlowSpec | None = None,
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
        operator: The family of measurements.
        noise_std: Standard deviation of their noise, a number, one an observation, or one a channel
            (channel, 1), in the data's units; the observations of masks are the nodes.
        history: Complete fields to simulate measurements of; `prior.history` by default, and
            draws of the Gaussian prior where there is none.
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
        The posterior with the weights that score best on held-out fields, the untrained ones
        among them; with "reverse", which uses no truth, with the last ones. Its spread is
        multiplied by a number, a function of the observed share, that makes spread and error of
        the held-out fields agree.

    Raises:
        InputError: If the noise does not fit, the history is not on the prior's grid, or the
            objective needs the density of an anchor that is dense and large.
    """
    spec = spec or FlowSpec()
    _check_density(prior, spec, objective)
    linear = operator.on(prior.domain)
    noise = _noise(linear, noise_std, prior.normals.mean.shape[1])
    history = prior.history if history is None else history
    place = choose_device(device)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    train, held = _pairs(prior, history, operator, noise, spec, folds, rounds, generator, progress)
    flow = build_flow(
        prior.domain,
        prior.normals.mean.shape[1],
        prior.normals.covariate_count,
        site_features(prior.domain, train.fields),
        spec,
        prior.anchor,
    )
    flow.to(place)
    if prior.diffusion is not None:
        prior.diffusion.to(place)
    loss = _objective(prior, objective, score_weight)

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        drawn = train.draw(batch, CRPS.members, generator).to(place)
        return loss(flow, drawn, _given(prior, flow, drawn), generator)

    log = fit_loop(
        flow,
        step_fn,
        steps=steps,
        lr=lr,
        # The paper's form is unsupervised: it is returned as training left it.
        validate=None if objective == "reverse" else lambda: _held_out_score(prior, flow, held),
        seed=seed,
        progress=progress,
        description=f"flow ({objective})",
    )
    _calibrate_spread(prior, flow, held)
    return Posterior(
        domain=prior.domain,
        normals=prior.normals,
        operator=operator,
        flow=flow.eval().cpu(),
        spec=spec,
        noise_std=noise,
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


def _noise(linear: LinearMap, noise_std: float | Tensor, channels: int) -> Tensor:
    noise = torch.as_tensor(noise_std, dtype=torch.float32)
    nodes = linear.num_observations
    shapes = [(), (nodes,), (channels, 1), (channels, nodes)]
    if tuple(noise.shape) not in shapes:
        raise InputError(
            f"noise_std has shape {tuple(noise.shape)}; give a number or one an "
            f"observation ({nodes}), or one a channel ({channels}, 1)."
        )
    if not bool((torch.isfinite(noise) & (noise > 0)).all()):
        raise InputError(f"noise_std must be finite and above zero, got {noise_std}.")
    return noise.expand(*noise.shape[:-1], nodes).clone()


def _given(prior: FieldPrior, flow: ConditionalFlow, batch: Batch) -> Conditioning:
    known = prior.normals.covariates(batch.season).to(batch.mean)
    return flow.condition(batch.measurement, batch.mean, batch.std, known)


def _objective(prior: FieldPrior, mode: Mode, score_weight: float) -> Objective:
    weights = prior.domain.areas.float() * prior.normals.std * prior.normals.valid
    score = CRPS(weights)
    reverse = ReverseKL(_log_density(prior))
    if mode == "score":
        return score
    if mode == "reverse":
        return reverse
    if mode == "forward":
        return WeightedSum({ForwardKL(): 1.0, score: score_weight})
    return WeightedSum({ForwardKL(): 0.5, reverse: 0.5, score: score_weight})


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


def _check_density(prior: FieldPrior, spec: FlowSpec, mode: Mode) -> None:
    values = prior.domain.num_nodes * prior.normals.mean.shape[1]
    dense = spec.base == "gaussian" and prior.anchor.kind == "localised" and values > _MOST_DENSE
    if dense and mode != "score":
        raise InputError(
            f"objective={mode!r} needs the density of the anchor in every step, and a localised "
            f"anchor of {values} values is too large for that (at most {_MOST_DENSE}); use "
            "objective='score', or fit_prior(..., anchor_scales=HybridScales())."
        )


def _bases(
    prior: FieldPrior, fields: Tensor, season: Tensor, spec: FlowSpec, folds: int
) -> list[Base]:
    if spec.base == "normal":
        return [StandardNormalBase(fields.shape[1], prior.domain.num_nodes)] * folds
    anchors = prior.cross_fitted(prior.anchor, fields, season, folds)
    return [GaussianBase(anchor) for anchor in anchors]


def _pairs(
    prior: FieldPrior,
    history: xr.DataArray | xr.Dataset | None,
    operator: Operator,
    noise: Tensor,
    spec: FlowSpec,
    folds: int,
    rounds: int,
    generator: torch.Generator,
    progress: bool,
) -> tuple[PairSet, PairSet]:
    """Simulate measurements to learn from, and others, at fixed densities, to stop by."""
    if history is None:
        season = torch.arange(_PRIOR_DRAWS) % prior.normals.seasons
        drawn = prior.gaussian.sample(season, generator)
        cut = len(drawn) * 9 // 10
        fields, later = drawn[:cut], drawn[cut:]
        season, later_season = season[:cut], season[cut:]
    else:
        learned, kept_back = prior.split(history)
        fields, later = prior.encode(learned), prior.encode(kept_back)
        season, later_season = prior.season_of(learned), prior.season_of(kept_back)
    if len(fields) < folds or len(later) == 0:
        raise InputError(
            f"{len(fields)} fields to learn from and {len(later)} held out from "
            f"{prior.held_out_from}; give a history with at least {folds} and 1."
        )
    seasons, linear = prior.normals.seasons, operator.on(prior.domain)
    masks = [operator.simulate(prior.domain, generator) for _ in range(rounds * folds * seasons)]
    train = simulate_pairs(
        fields,
        season,
        contiguous_folds(len(fields), folds),
        _bases(prior, fields, season, spec, folds),
        prior.normals,
        masks,
        noise,
        linear,
        members=2 * CRPS.members,
        seed=int(torch.randint(2**31, (), generator=generator)),
        progress=progress,
    )
    checks = [
        operator.at_density(prior.domain, density, generator)
        for density in HELD_OUT_DENSITIES
        for _ in range(seasons)
    ]
    last = (
        GaussianBase(prior.anchor)
        if spec.base == "gaussian"
        else StandardNormalBase(fields.shape[1], prior.domain.num_nodes)
    )
    held = simulate_pairs(
        later,
        later_season,
        torch.zeros(len(later), dtype=torch.long),
        [last],
        prior.normals,
        checks,
        noise,
        linear,
        members=_VALIDATION_MEMBERS,
        seed=int(torch.randint(2**31, (), generator=generator)),
        progress=progress,
    )
    return train, held


def _held_out(
    prior: FieldPrior, flow: ConditionalFlow, held: PairSet
) -> Iterator[tuple[Batch, Conditioning, Tensor, Tensor]]:
    """Yield each group, its conditioning, the area that is scored, and the units' scale.

    Hidden nodes are scored; all of them where everything is observed, with noise.
    """
    area = (prior.domain.areas.float() * prior.normals.valid).to(flow.device)
    for index in range(len(held.groups)):
        batch = held.group(index).to(flow.device)
        scale = prior.normals.std[batch.season].to(area)
        hidden = batch.measurement.hidden
        scored = hidden if bool(hidden.any()) else torch.ones_like(hidden)
        yield batch, _given(prior, flow, batch), area * scored, scale


def _held_out_score(prior: FieldPrior, flow: ConditionalFlow, held: PairSet) -> float:
    """Return the flow's CRPS relative to its base's on held-out pairs, averaged over masks."""
    ratios = []
    for batch, given, hidden, scale in _held_out(prior, flow, held):
        weights = hidden * scale
        fields, _ = flow.push(batch.deviations, given)
        score = (weights * fair_crps(fields, batch.truth)).sum()
        base = (weights * fair_crps(batch.mean + batch.deviations, batch.truth)).sum()
        ratios.append(float(score / base))
    return sum(ratios) / len(ratios)


def _calibrate_spread(prior: FieldPrior, flow: ConditionalFlow, held: PairSet) -> None:
    """Set the flow's spread, so far that of its base, by held-out pairs.

    By least squares of the log of the factor on that of the observed share; a constant where all
    masks have about the same share.
    """
    shares, factors = _spread_factors(prior, flow, held)
    slope = np.polyfit(shares, factors, 1)[0] if np.ptp(shares) > math.log(2.0) else 0.0
    flow.spread[0] = float(factors.mean() - slope * shares.mean())
    flow.spread[1] = float(slope)


@torch.no_grad()
def _spread_factors(
    prior: FieldPrior, flow: ConditionalFlow, held: PairSet
) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each group, the logs of its observed share and of error over spread."""
    found = []
    for batch, given, hidden, scale in _held_out(prior, flow, held):
        weights = hidden * scale**2
        fields, _ = flow.push(batch.deviations, given)
        error = (weights * (fields.mean(0) - batch.truth) ** 2).sum()
        spread = (weights * fields.var(0)).sum() * (1.0 + 1.0 / len(fields))
        found.append((float(given.log_share.mean()), 0.5 * float((error / spread).log())))
    shares, factors = np.array(found).T
    return shares, factors
