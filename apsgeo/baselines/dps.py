"""Diffusion posterior sampling: hundreds of steps for each measurement."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from apsgeo.diffusion.denoiser import AnchoredDenoiser
from apsgeo.diffusion.samplers import Ancestral, Path, Time
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.measurement import Bias, Draws, Measurement, members_noise

__all__ = ["DPS"]

_MEAN_MEMBERS = 32


@dataclass(frozen=True)
class DPS:
    r"""Ancestral sampling guided by the misfit's gradient (Chung et al. 2023, arXiv 2209.14687).

    After each ancestral step x_t moves by -strength * grad ||y - A D(x_t)||. The norm is that of
    each field on its own, with observations weighted by their relative precision; the size of the
    noise plays no part. Its members are not draws of the posterior. With Gaussian priors, a noise
    of 0.3 and 5 to 30 % of the nodes observed, its mean is off by 0.3 to 0.8 posterior standard
    deviations (root mean square) and its variance is 0.5 to 0.9 of the exact one; with all nodes
    observed, its members have next to no spread.

    Attributes:
        prior: Denoiser of standardized anomalies.
        steps: Number of steps, each with one evaluation of the network and its gradient.
        strength: Length of a guiding step, `zeta` in the paper, twice.
    """

    prior: AnchoredDenoiser
    steps: int = 200
    strength: float = 1.0
    name: ClassVar[str] = "DPS"
    bias: ClassVar[Bias] = Bias(mean=0.9, variance=(0.3, 1.0))

    @classmethod
    def of(cls, prior: FieldPrior) -> DPS:
        """Return the method of a prior.

        Raises:
            InputError: If the prior has no diffusion prior.
        """
        if prior.diffusion is None:
            raise InputError("DPS needs a diffusion prior; fit one with steps above 0.")
        return cls(prior.diffusion)

    def posterior(self, measurement: Measurement) -> Draws:
        """Return draws of the fields behind measurements."""
        return _Guided(self, measurement)


class _Guided(Draws):
    def __init__(self, method: DPS, measurement: Measurement) -> None:
        self._method, self.measurement = method, measurement

    @property
    def mean(self) -> Tensor:
        return self.members(_MEAN_MEMBERS, 0).mean(0)

    def members(self, count: int, seed: int) -> Tensor:
        given, method = self.measurement, self._method
        draws = iter(range(method.steps + 1))

        def noise() -> Tensor:
            size = given.shape[1] * given.shape[2]
            white = members_noise(seed, given.key, count, size, stream=next(draws))
            return white.reshape(-1, *given.shape[1:]).to(given.values)

        sampler = _GuidedAncestral(
            method.steps, measurement=given.repeat(count), strength=method.strength
        )
        return sampler.walk(method.prior, noise).unflatten(0, (count, len(given)))


@dataclass(frozen=True)
class _GuidedAncestral(Ancestral):
    measurement: Measurement = field(kw_only=True)
    strength: float = field(kw_only=True)

    @cached_property
    def _weight(self) -> Tensor:
        """Relative precision of each observation, (batch, channel, observation)."""
        given = self.measurement
        typical = torch.where(given.mask, given.noise_std, torch.inf).flatten(1).amin(1)
        typical = typical.nan_to_num(posinf=1.0)  # where nothing was observed
        return given.mask * typical[:, None, None] / given.noise_std

    def _step(self, path: Path, now: Time, then: Time) -> Tensor:
        given, kept = self.measurement, (then.v / now.v) ** 2
        with torch.enable_grad():
            s = path.s.detach().requires_grad_()
            clean = path.denoise(s, now)
            misfit = self._weight * (given.values - given.apply(clean))
            length = misfit.square().flatten(1).sum(1).clamp(min=1e-12).sqrt()
            (slope,) = torch.autograd.grad(length.sum(), s)
        mean = kept * path.s + (1.0 - kept) * clean.detach()
        drawn = mean + then.v * (1.0 - kept) ** 0.5 * path.noise()
        return drawn - self.strength / (now.alpha * then.alpha) * slope
