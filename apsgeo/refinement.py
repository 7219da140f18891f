"""More than one evaluation, for fields whose importance weights say that one is not enough.

`apsgeo.diagnostics.importance.importance_weights` flags the fields. These functions act on their
distribution, ``posterior(y[flagged])``, when they are called, and need the prior's log-density.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from apsgeo.distillation.objective import frozen
from apsgeo.errors import InputError
from apsgeo.flows.flow import FlowDraws
from apsgeo.measurement.distribution import FieldDistribution

__all__ = ["Chains", "adapt", "metropolis"]

LogPrior = Callable[[Tensor], Tensor]
"""Function that returns log p (batch,) of standardized anomalies (batch, channel, node)."""


@dataclass(frozen=True)
class Chains:
    """The ends of Markov chains.

    Attributes:
        fields: Fields (member, batch, channel, node) in the units of the data, one chain a member.
        acceptance: Share (batch,) of accepted proposals of each field.
    """

    fields: Tensor
    acceptance: Tensor


@torch.no_grad()
def metropolis(
    distribution: FieldDistribution,
    log_prior: LogPrior,
    members: int,
    *,
    steps: int = 64,
    seed: int = 0,
) -> Chains:
    r"""Run independence Metropolis chains whose proposals are draws of q(x|y).

    A proposal x' replaces x with probability min(1, w(x') / w(x)), w = p(x) p(y|x) / q(x|y), and
    leaves p(x|y) invariant (Tierney 1994, https://doi.org/10.1214/aos/1176325750). After n steps
    the distance from it in total variation is at most (1 - 1 / sup w)^n, with w of mean one.

    Args:
        distribution: Distribution that a `Posterior` returns for measurements.
        log_prior: Function that returns log p (batch,) of standardized anomalies, such as a
            Gaussian prior's `log_prob` or ``lambda x: diffusion.estimate_log_prob(x).value``;
            chains are as good as that.
        members: Number of chains for each field; all start from draws of q.
        steps: Number of proposals to each chain.
        seed: Seed of the draws.

    Raises:
        InputError: If there is no member or step, or some nodes are not valid (land), where there
            is no density.
    """
    if members < 1 or steps < 1:
        raise InputError(f"members={members}, steps={steps}; give at least one of each.")
    generator = torch.Generator().manual_seed(seed)
    batch = distribution.batch_shape[0]

    def propose() -> tuple[Tensor, Tensor]:
        noise = torch.randn(members, batch, distribution.noise_dim, generator=generator)
        fields = distribution.from_noise(noise)
        weights = distribution.log_joint(fields, log_prior) - distribution.log_prob(fields)
        return fields, weights.double()

    fields, log_weights = propose()
    accepted = torch.zeros(batch, dtype=torch.float64)
    for _ in range(steps):
        proposed, their = propose()
        draw = torch.rand(members, batch, generator=generator, dtype=torch.float64)
        moves = draw.log().to(their.device) < their - log_weights
        fields = torch.where(moves[..., None, None], proposed, fields)
        log_weights = torch.where(moves, their, log_weights)
        accepted += moves.double().mean(0).cpu()
    return Chains(fields, accepted / steps)


def adapt(
    distribution: FieldDistribution,
    log_prior: LogPrior,
    *,
    steps: int = 50,
    lr: float = 0.02,
    members: int = 4,
    seed: int = 0,
) -> FieldDistribution:
    """Fit the conditioning of each measurement to it, by the reverse divergence.

    The weights do not change. For each field on its own, the mean and the context (see
    `Conditioning.free`) take steps of Adam down the path gradient of KL(q || p); see
    `apsgeo.distillation.objective.PathReverseKL`.

    Args:
        distribution: Distribution that a `Posterior` returns for measurements; it does not change.
        log_prior: Differentiable function that returns log p (batch,) of standardized anomalies.
        steps: Number of steps of Adam.
        lr: Learning rate at first, in standardized units; it falls to zero linearly.
        members: Number of draws of each field in a step.
        seed: Seed of the draws.

    Raises:
        InputError: If some nodes are not valid (land), where there is no density, or the
            distribution is not a flow's.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = _flow_draws(distribution)
    conditioning = draws.conditioning.detach()
    free = {
        name: getattr(conditioning, name).clone().requires_grad_() for name in conditioning.free
    }
    optimizer = torch.optim.Adam(free.values(), lr=lr)
    shape = (members, *distribution.batch_shape, distribution.noise_dim)
    with frozen(draws.flow), torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1.0 - step / steps)
            seen = conditioning.replaced(**free)
            now = distribution.of(draws.with_conditioning(seen))
            still = distribution.of(draws.with_conditioning(seen.detach()))
            fields = now.from_noise(torch.randn(shape, generator=generator))
            log_q = still.log_prob(fields)
            loss = (log_q - distribution.log_joint(fields, log_prior)).mean(0).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return distribution.of(draws.with_conditioning(conditioning.replaced(**free).detach()))


def _flow_draws(distribution: FieldDistribution) -> FlowDraws:
    if not isinstance(distribution.draws, FlowDraws):
        raise InputError("only a flow can be adapted to a measurement; distill one.")
    return distribution.draws
