"""Moment matching posterior sampling: the denoiser's Jacobian is the covariance it implies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apsgeo.baselines.iterative import Given, Guided, ancestral
from apsgeo.diffusion.samplers import Path, Time
from apsgeo.measurement import Bias

__all__ = ["MMPS"]


@dataclass(frozen=True)
class MMPS(Guided):
    r"""Ancestral sampling with the moments of x given x_t (Rozet et al. 2024, arXiv 2405.13712).

    By Tweedie's formula the covariance of x given s = x + v n is v^2 J, J the Jacobian of D. The
    field given s and y then has the mean D + v^2 J A^T (R + v^2 A J A^T)^-1 (y - A D), from which
    the next state is drawn. The system is solved by a few conjugate gradients, each with a
    product with J. For a Gaussian prior the mean is exact up to these. What is left is the error
    of finite steps, which is in the spread: with a noise of 0.3 and 30 % of the nodes observed, the
    variance is 0.5, 0.83, 0.9 and 0.95 of the exact one with 12, 50, 100 and 300 steps.

    Attributes:
        prior: Denoiser of standardized anomalies.
        steps: Number of steps, each with one evaluation of the network and 1 + `iterations` of its
            gradient.
        iterations: Number of conjugate gradients.
    """

    iterations: int = 5
    name: ClassVar[str] = "MMPS"
    bias: ClassVar[Bias] = Bias(mean=0.3, variance=(0.8, 1.05))
    evaluations: ClassVar[int] = 7

    def step(self, given: Given, path: Path, now: Time, then: Time) -> Tensor:
        """Return the states s = x_t / alpha at the next time."""
        known, v2 = given.coordinates, now.v**2
        r2 = v2 / (1.0 + v2)
        with torch.enable_grad():
            s = path.s.detach().requires_grad_()
            clean = path.denoise(s, now)

        def spread(values: Tensor) -> Tensor:
            """Return v^2 J A^T of coordinates, a field."""
            field = known.back(values)
            (product,) = torch.autograd.grad(clean, s, field, retain_graph=True)
            return v2 * product

        # In units of noise and uncertainty together, as a preconditioner.
        unit = torch.where(known.seen, (known.noise_std**2 + r2) ** -0.5, 0.0)
        noise = torch.where(known.seen, known.noise_std * unit, 1.0) ** 2

        def system(values: Tensor) -> Tensor:
            return noise * values + unit * known.into(spread(unit * values))

        solved = _conjugate_gradients(system, unit * known.misfit(clean.detach()), self.iterations)
        return ancestral(path, clean.detach() + spread(unit * solved), now, then)


def _conjugate_gradients(
    system: Callable[[Tensor], Tensor], right: Tensor, iterations: int
) -> Tensor:
    """Solve a positive definite system (member, record, value), each record on its own.

    A direction along which it is not, as a network's Jacobian may have, is not followed.
    """
    found, rest = torch.zeros_like(right), right
    direction, power = rest, rest.square().sum(-1, keepdim=True)
    for _ in range(iterations):
        image = system(direction)
        curvature = (direction * image).sum(-1, keepdim=True)
        step = torch.where(curvature > 0.0, power / curvature.clamp(min=1e-30), 0.0)
        found, rest = found + step * direction, rest - step * image
        last, power = power, rest.square().sum(-1, keepdim=True)
        direction = rest + power / last.clamp(min=1e-30) * direction
    return found
