"""Hamiltonian Monte Carlo as a method of the truth suite: chains that start from the anchor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.measurement import Draws, Measurement

__all__ = ["HMC", "Chains", "hmc", "whitened"]

LogTarget = Callable[[Tensor, Measurement], Tensor]
"""Function that returns log p(x) + log p(y | x) (batch,) of fields and measurements."""

_TARGET_ACCEPTANCE = 0.8


@dataclass(frozen=True)
class HMC:
    """Long chains for each measurement, as a method; they know no density.

    Attributes:
        anchor: Gaussian prior; chains start from draws of its posterior.
        log_target: Exact log-density.
        steps: Number of proposals, the first half of which also tune the step size.
        leapfrogs: Most evaluations of the gradient in a proposal; their number is random.
        step_size: First step size, in standard deviations of the anchor's posterior.
    """

    anchor: GaussianPrior
    log_target: LogTarget
    steps: int = 60
    leapfrogs: int = 8
    step_size: float = 0.15
    name = "HMC"

    def posterior(self, measurement: Measurement) -> Draws:
        """Return draws that run a chain for each member."""
        return _ChainDraws(self, measurement)


class _ChainDraws(Draws):
    """The ends of chains; they depend on the whole batch, which tunes the step size."""

    def __init__(self, plan: HMC, measurement: Measurement) -> None:
        self._plan, self.measurement = plan, measurement

    @property
    def mean(self) -> Tensor:
        return self.members(32, 0).mean(0)

    def members(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return hmc(self._plan, self.measurement, count, generator).fields


@dataclass(frozen=True)
class Chains:
    """The ends of chains, fields (member, batch, channel, node), and the last acceptance."""

    fields: Tensor
    acceptance: float


def whitened(anchor: GaussianPrior, measured: Measurement) -> tuple[Tensor, Tensor]:
    """Return mean (batch, value) and a root (batch, value, value) of the anchor's posterior."""
    posterior = anchor.posterior(measured)
    size = math.prod(measured.shape[1:])
    basis = torch.eye(size).reshape(size, 1, *measured.shape[1:]).expand(-1, *measured.shape)
    precision = torch.stack([posterior.precision_apply(x) for x in basis])
    matrix = precision.reshape(size, len(measured), size).transpose(0, 1).double()
    # P = R R^T, so that R^-T has the covariance for its square
    root = torch.linalg.cholesky((matrix + matrix.mT) / 2.0)
    identity = torch.eye(size, dtype=root.dtype)
    return posterior.mean.flatten(1).double(), torch.linalg.solve_triangular(
        root.mT, identity, upper=True
    )


def hmc(plan: HMC, measured: Measurement, members: int, generator: torch.Generator) -> Chains:
    """Run a chain for each member of each measurement, with the exact log-density.

    Hamiltonian Monte Carlo (Neal 2011, arXiv 1206.1901) starts from draws of the anchor's
    posterior, and runs in the coordinates that make it white.
    """
    mean, root = whitened(plan.anchor, measured)
    every = measured.repeat(members)

    def fields(place: Tensor) -> Tensor:
        moved = mean + torch.einsum("bij,mbj->mbi", root, place)
        return moved.reshape(members, *measured.shape)

    def energy(place: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            free = place.detach().requires_grad_()
            target = plan.log_target(fields(free).flatten(0, 1).float(), every).double()
            (slope,) = torch.autograd.grad(target.sum(), free)
        return -target.detach().reshape(members, -1), -slope

    place = torch.randn(members, *mean.shape, generator=generator, dtype=torch.float64)
    potential, slope = energy(place)
    size, rate = plan.step_size, 0.0
    for step in range(plan.steps):
        speed = torch.randn(place.shape, generator=generator, dtype=torch.float64)
        start = potential + 0.5 * speed.square().sum(-1)
        moved, force = place, slope
        count = int(torch.randint(1, plan.leapfrogs + 1, (), generator=generator))
        for _ in range(count):
            speed = speed - 0.5 * size * force
            moved = moved + size * speed
            reached, force = energy(moved)
            speed = speed - 0.5 * size * force
        change = start - reached - 0.5 * speed.square().sum(-1)
        chance = change.clamp(max=0.0).exp().nan_to_num(0.0)
        taken = torch.rand(chance.shape, generator=generator, dtype=torch.float64) < chance
        place = torch.where(taken[..., None], moved, place)
        slope = torch.where(taken[..., None], force, slope)
        potential = torch.where(taken, reached, potential)
        rate = float(chance.mean())
        if step < plan.steps // 2:
            size *= 1.0 + (rate - _TARGET_ACCEPTANCE) / (1.0 + 0.1 * step)
    return Chains(fields(place).float(), rate)
