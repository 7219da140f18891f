"""Denoising diffusion restoration models: a variational chain in the operator's coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apsgeo.baselines.iterative import Given, Guided
from apsgeo.diffusion.samplers import Path, Time
from apsgeo.measurement import Bias

__all__ = ["DDRM"]


@dataclass(frozen=True)
class DDRM(Guided):
    r"""A chain whose coordinates are drawn to the values (Kawar et al. 2022, arXiv 2201.11793).

    In the coordinates of the operator's singular value decomposition the next state is (eq. 7 to
    8) around D where nothing is measured; around D, led by the value, while the state has less
    noise than the value; and around a mean of value and D otherwise. No gradient is needed. The
    posterior is not its law, even for a Gaussian prior. With a noise of 0.3 and 30 % of the nodes
    observed, its mean is off by 0.2 posterior standard deviations, and its variance is 0.8 of the
    exact one where nothing was observed, and 0.1 of it at observed nodes.

    Attributes:
        prior: Denoiser of standardized anomalies.
        steps: Number of steps, each with one evaluation of the network.
        eta: Share of the noise that is drawn anew, `eta` in the paper.
        eta_value: Weight of the value, `eta_b` in the paper.
    """

    eta: float = 0.85
    eta_value: float = 1.0
    name: ClassVar[str] = "DDRM"
    bias: ClassVar[Bias] = Bias(mean=0.4, variance=(0.4, 0.75))

    def step(self, given: Given, path: Path, now: Time, then: Time) -> Tensor:
        """Return the states s = x_t / alpha at the next time."""
        known = given.coordinates
        fields = path.denoise(path.s, now)
        clean, state, white = (known.into(each) for each in (fields, path.s, path.noise()))
        apart = (1.0 - self.eta**2) ** 0.5 * then.v
        anew = clean + self.eta * then.v * white
        unseen = anew + apart * (state - clean) / now.v
        late = anew + apart * known.misfit(fields) / known.noise_std
        weight = self.eta_value
        left = (then.v**2 - (weight * known.noise_std) ** 2).clamp(min=0.0).sqrt()
        early = clean + weight * known.misfit(fields) + left * white
        seen = torch.where(then.v >= known.noise_std, early, late)
        return known.back(torch.where(known.seen, seen, unseen))
