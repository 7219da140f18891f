"""Training of the truth suite's flows on draws that are made on the fly, without end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from apsgeo.distillation.objective import frozen
from apsgeo.flows.build import CouplingSpec, build_flow
from apsgeo.flows.flow import Flow
from apsgeo.flows.spec import Site
from apsgeo.flows.spectral import SpectralConditioning, SpectralFlow
from apsgeo.gaussian.posterior import GaussianPosterior
from apsgeo.optim.loop import StepFn, fit_loop
from apsgeo.optim.training import Training
from benchmarks.truth.mixture import MixtureProblem, Pairs

Mode = Literal["forward", "reverse", "mixed"]

_SHARING = 4  # fields with one mask, hence one factorization


@dataclass(frozen=True)
class Recipe:
    """The training of a spectral flow.

    Attributes:
        mode: "forward" is -log q of the truth, plus the leading coefficient's alone; "reverse" the
            KL divergence of the members, by path gradients; "mixed" is forward for the first part,
            then reverse plus the leading coefficient's forward part.
        steps: Number of steps of the optimizer.
        lr: Peak learning rate.
        batch: Number of fields in a step.
        leading_batch: Number of further fields in a step, for the leading coefficient alone.
        leading_weight: Weight of -log q of the leading coefficient.
        forward_share: Share of the steps of "mixed" that are forward.
    """

    mode: Mode = "mixed"
    steps: int = 3000
    lr: float = 2e-3
    batch: int = 32
    leading_batch: int = 64
    leading_weight: float = 10.0
    forward_share: float = 0.2


def base_log_prob(posterior: GaussianPosterior, deviation: Tensor) -> Tensor:
    """Return the base's log density (member, batch) at deviations (member, batch, ...)."""
    return posterior.peak_log_prob().to(deviation) - posterior.energy(deviation)


def _forward(
    flow: SpectralFlow,
    pairs: Pairs,
    posterior: GaussianPosterior,
    conditioning: SpectralConditioning,
) -> Tensor:
    deviation, log_det = flow.pull(pairs.truth[None], conditioning)
    return (posterior.energy(deviation) + log_det)[0].mean()


def path_divergence(
    flow: SpectralFlow,
    posterior: GaussianPosterior,
    conditioning: SpectralConditioning,
    log_target: Callable[[Tensor], Tensor],
    *,
    members: int = 1,
    generator: torch.Generator,
) -> Tensor:
    """Return KL(q || p) up to a constant, whose gradient is along the members' paths only.

    Args:
        flow: Flow of density q.
        posterior: Posterior of the base, given the measurements.
        conditioning: Conditioning of the flow on them.
        log_target: Function that returns log p(x) + log p(y | x) of fields (member, batch, ...).
        members: Number of members of each field.
        generator: Generator of the members.
    """
    noise = torch.randn(members, len(conditioning.mean), posterior.noise_dim, generator=generator)
    fields, _ = flow.push(posterior.deviations(noise), conditioning)
    with frozen(flow):
        deviation, log_det = flow.pull(fields, conditioning.detach())
    return (base_log_prob(posterior, deviation) - log_det - log_target(fields)).mean()


def train_spectral(problem: MixtureProblem, flow: SpectralFlow, recipe: Recipe, seed: int) -> float:
    """Train a flow in place; return the processor's seconds."""
    size = math.prod(problem.mixture.means.shape[1:])

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        pairs = problem.draw(recipe.batch, generator, sharing=_SHARING)
        posterior = problem.anchor.posterior(pairs.measurement)
        conditioning = flow.condition(posterior)
        early = step < recipe.forward_share * recipe.steps
        if recipe.mode == "forward" or (recipe.mode == "mixed" and early):
            loss = _forward(flow, pairs, posterior, conditioning)
        else:
            # With modes that are followed unequally well, the reverse divergence would favour the
            # better one, by the exponential of the difference: only draws of it decide the weights.
            held = conditioning if recipe.mode == "reverse" else conditioning.with_leading_held()
            loss = path_divergence(
                flow,
                posterior,
                held,
                lambda fields: problem.log_target(fields[0], pairs.measurement),
                generator=generator,
            )
        if recipe.mode != "reverse":
            more = problem.draw(recipe.leading_batch, generator, sharing=_SHARING)
            conditioning = flow.condition(
                problem.anchor.posterior(more.measurement), leading_only=True
            )
            leading = flow.leading_log_prob(more.truth, conditioning).mean()
            loss = loss - recipe.leading_weight * leading
        return loss / size

    return _fit(flow, step_fn, recipe, seed)


def train_paper(problem: MixtureProblem, recipe: Recipe, seed: int) -> tuple[Flow, float]:
    """Train the paper's form: affine couplings from N(0, I), by the reverse divergence.

    Returns:
        The flow and the processor's seconds.
    """
    torch.manual_seed(seed)
    spec = CouplingSpec(
        base="white", width=16, depth=2, context=8, local=8, patterns=0, coupling_width=16
    )
    domain = problem.domain
    flow = build_flow(Site(domain, 1, None, torch.zeros(1, domain.num_nodes)), spec)

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        measurement = problem.draw(recipe.batch, generator).measurement
        conditioning = flow.condition(flow.base.posterior(measurement))
        noise = torch.randn(1, *measurement.shape, generator=generator)
        fields, log_det = flow.push(noise, conditioning)
        return -(problem.log_target(fields[0], measurement) + log_det[0]).mean() / domain.num_nodes

    return flow, _fit(flow, step_fn, recipe, seed)


def _fit(flow: nn.Module, step_fn: StepFn, recipe: Recipe, seed: int) -> float:
    start = time.process_time()
    fit_loop(
        flow,
        step_fn,
        Training(steps=recipe.steps, lr=recipe.lr, ema_decay=0.998, progress=False),
        seed=seed,
    )
    return time.process_time() - start
