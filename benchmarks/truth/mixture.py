"""The mixture of two random fields on HEALPix nside 8, whose posterior is known and has two modes.

The setting of section 6 of the design: equal weights; spherical-harmonic spectra 1 / (1 + (l/2)^3)
and 1 / (1 + (l/5)^4) to l = 12, each scaled to unit mean variance plus a nugget of 0.02, the second
then halved; means m1 = 2.4 exp(4 (x.e1 - 1)) and m2 = -m1 + 1.6 exp(4 (x.e2 - 1)), with e1, e2 the
axes of longitude 0 and 90; noise 0.1; each node observed with the probability of the density.
Fields are anomalies from the mixture's mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from apsgeo.domains import HEALPixDomain
from apsgeo.domains.harmonics import real_harmonics
from apsgeo.gaussian.dense import DensePrior
from apsgeo.gaussian.mixture import GaussianMixturePrior
from apsgeo.measurement import Measurement

NOISE_STD = 0.1
DENSITIES = (0.005, 0.01, 0.05)
TRAINING_DENSITIES = (0.004, 0.07)
_DEGREE, _NUGGET = 12, 0.02


@dataclass(frozen=True)
class Pairs:
    """Fields (batch, channel, node) and what was measured of them."""

    truth: Tensor
    measurement: Measurement


class MixtureProblem:
    """The mixture, and the Gaussian of its mean and covariance, from which flows start."""

    def __init__(self, nside: int = 8, degree: int = _DEGREE) -> None:
        self.domain = HEALPixDomain(nside)
        position = self.domain.positions.double()
        harmonics = torch.from_numpy(real_harmonics(position.numpy(), degree))
        l = torch.cat([torch.full((2 * k + 1,), float(k)) for k in range(degree + 1)]).double()
        first = self._covariance(harmonics, 1.0 / (1.0 + (l / 2.0) ** 3))
        second = 0.5 * self._covariance(harmonics, 1.0 / (1.0 + (l / 5.0) ** 4))
        m1 = 2.4 * torch.exp(4.0 * (position[:, 0] - 1.0))
        m2 = -m1 + 1.6 * torch.exp(4.0 * (position[:, 1] - 1.0))
        half = (m1 - m2) / 2.0
        self.patterns = (degree + 1) ** 2 + 1
        components = [DensePrior(self.domain, each) for each in (first, second)]
        means = torch.stack([half, -half])[:, None]
        self.mixture = GaussianMixturePrior(components, [0.5, 0.5], means)
        total = (first + second) / 2.0 + torch.outer(half, half)
        self.anchor = DensePrior(self.domain, total, rank=self.patterns)

    @staticmethod
    def _covariance(harmonics: Tensor, spectrum: Tensor) -> Tensor:
        matrix = (harmonics * spectrum) @ harmonics.T
        return matrix / matrix.diagonal().mean() + _NUGGET * torch.eye(len(matrix))

    def draw(
        self,
        batch: int,
        generator: torch.Generator,
        density: float | None = None,
        sharing: int = 1,
    ) -> Pairs:
        """Draw fields and measurements; `sharing` fields in a row have one mask.

        The density is log-uniform over the range of training if none is given. At least one node
        is observed.
        """
        if density is None:
            least, most = TRAINING_DENSITIES
            place = float(torch.rand((), generator=generator))
            density = least * math.exp(place * math.log(most / least))
        truth = self.mixture.sample(batch, generator)
        masks = torch.rand(-(-batch // sharing), 1, truth.shape[-1], generator=generator) < density
        masks[~masks.any(-1)[:, 0], :, 0] = True
        mask = masks.repeat_interleave(sharing, 0)[:batch]
        noise = NOISE_STD * torch.randn(truth.shape, generator=generator)
        values = torch.where(mask, truth + noise, torch.nan)
        return Pairs(truth, Measurement.of(values, NOISE_STD))

    def log_target(self, fields: Tensor, measurement: Measurement) -> Tensor:
        """Return log p(x) + log p(y | x), (batch,), of fields (batch, channel, node)."""
        return self.mixture.log_prob(fields) + measurement.log_likelihood(fields)
