"""Annealed Langevin dynamics with the score of the prior and of a softened likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apsgeo.baselines.iterative import Given, Guided
from apsgeo.diffusion.samplers import Path, Time
from apsgeo.measurement import Bias

__all__ = ["AnnealedLangevin"]


@dataclass(frozen=True)
class AnnealedLangevin(Guided):
    r"""Langevin steps at ever lower noise (Jalal et al. 2021, arXiv 2108.01368).

    At each level v the state follows the score of s = x + v n and that of N(y; A s, R + v^2 A A^T),
    both with a step that is a share of v^2, less where values hold it. As v falls, its law nears
    that of the posterior, but the steps shrink with v, and what has not been found while they were
    long is not found later. With Gaussian priors, a noise of 0.3 and 30 % of the nodes observed,
    its mean is off by 0.1 posterior standard deviations and its variance is 1.07 of the exact one;
    with one step of 0.1 a level, by 1.1 and 11.

    Attributes:
        prior: Denoiser of standardized anomalies.
        steps: Number of levels.
        repeats: Number of Langevin steps at each level, each with one evaluation of the network.
        share: Length of a step.
    """

    repeats: int = 3
    share: float = 0.6
    name: ClassVar[str] = "annealed Langevin"
    bias: ClassVar[Bias] = Bias(mean=0.35, variance=(0.9, 1.35))
    evaluations: ClassVar[int] = 3

    def step(self, given: Given, path: Path, now: Time, then: Time) -> Tensor:
        """Return the states s = x_t / alpha at the next time."""
        known = given.coordinates
        precision = torch.where(known.seen, 1.0 / (known.noise_std**2 + now.v**2), 0.0)
        length = 2.0 * self.share / (now.v**-2 + precision)
        state = path.s
        for _ in range(self.repeats):
            prior = known.into(path.denoise(state, now) - state) / now.v**2
            slope = prior + precision * known.misfit(state)
            white = known.into(path.noise())
            state = known.back(known.into(state) + 0.5 * length * slope + length.sqrt() * white)
        return state
