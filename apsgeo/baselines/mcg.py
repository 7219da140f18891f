"""Manifold constrained gradients: the misfit's gradient, then a projection onto the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apsgeo.baselines.dps import descended
from apsgeo.baselines.iterative import Given, Guided
from apsgeo.diffusion.samplers import Path, Time
from apsgeo.measurement import Bias

__all__ = ["MCG"]


@dataclass(frozen=True)
class MCG(Guided):
    r"""Ancestral sampling led by the misfit, its measured part replaced (arXiv 2206.00941).

    After each ancestral step x_t moves by -strength * grad ||y - A D(x_t)|| (Chung et al. 2022,
    eq. 14, with the step length of DPS), and then its measured part becomes that of the values
    with the noise of the time, alpha y + sigma n (eq. 15). The values count as exact, so that all
    members pass through them and take their noise for signal. With Gaussian priors, a noise of 0.3
    and 30 % of the nodes observed, its mean is off by 0.3 posterior standard deviations, its
    variance is 0.9 of the exact one where nothing was observed, and zero at observed nodes.

    Attributes:
        prior: Denoiser of standardized anomalies.
        steps: Number of steps, each with one evaluation of the network and its gradient.
        strength: Length of a guiding step.
    """

    strength: float = 1.0
    name: ClassVar[str] = "MCG"
    bias: ClassVar[Bias] = Bias(mean=0.5, variance=(0.4, 0.8))

    def step(self, given: Given, path: Path, now: Time, then: Time) -> Tensor:
        """Return the states s = x_t / alpha at the next time."""
        moved = descended(given, path, now, then, self.strength)
        known = given.coordinates
        noisy = known.values + then.v * known.into(path.noise())
        return known.back(torch.where(known.seen, noisy, known.into(moved)))
