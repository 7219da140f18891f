"""Denoising diffusion null-space models: the measured part of the field is replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apsgeo.baselines.iterative import Given, Guided
from apsgeo.diffusion.samplers import Path, Time
from apsgeo.measurement import Bias

__all__ = ["DDNM"]


@dataclass(frozen=True)
class DDNM(Guided):
    r"""Ancestral sampling with the measured part of D replaced: DDNM+ (arXiv 2212.00490).

    D moves by share * (y - A D) in the range of A, and nothing in its null space moves (Wang et
    al. 2023, eq. 17 to 19). The share is one as long as the noise of y is below that which the step
    adds, of which it is then a part, and smaller later. No gradient is needed, and no
    prior is weighed against a value until the last steps: all members keep the noise of the values.
    With Gaussian priors, a noise of 0.3 and 30 % of the nodes observed, its mean is off by 0.3 to
    0.5 posterior standard deviations, and its variance is 1.1 of the exact one where nothing was
    observed, and zero at observed nodes.

    Attributes:
        prior: Denoiser of standardized anomalies.
        steps: Number of steps, each with one evaluation of the network.
    """

    name: ClassVar[str] = "DDNM"
    bias: ClassVar[Bias] = Bias(mean=0.7, variance=(0.5, 1.0))

    def step(self, given: Given, path: Path, now: Time, then: Time) -> Tensor:
        """Return the states s = x_t / alpha at the next time."""
        known, kept = given.coordinates, (then.v / now.v) ** 2
        clean = path.denoise(path.s, now)
        added = then.v * (1.0 - kept) ** 0.5
        measured = torch.where(known.seen, (1.0 - kept) * known.noise_std, 0.0)
        share = (added / measured.clamp(min=1e-30)).clamp(max=1.0)
        left = (added**2 - (share * measured) ** 2).clamp(min=0.0).sqrt()
        moved = known.into(clean) + share * known.misfit(clean)
        mean = kept * known.into(path.s) + (1.0 - kept) * moved
        return known.back(mean + left * known.into(path.noise()))
