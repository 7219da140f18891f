"""Unconditional samplers: from white noise to fields, with any denoiser and schedule.

A sampler walks down a grid of times, equally spaced in log(alpha^2 / sigma^2) from ``schedule.T``
to ``schedule.eps``, and returns the denoised last state, calibrated if the denoiser does so. The
first, x_T, is drawn as data of covariance I would be, N(0, (alpha^2 + sigma^2) I). With
s = x_t / alpha and v = sigma / alpha the probability-flow ODE is ds/dv = (s - D) / v; see
`apsgeo.diffusion.ode`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from apsgeo.diffusion.denoiser import AnchoredDenoiser
from apsgeo.errors import InputError

__all__ = ["DDIM", "Ancestral", "DPMSolver", "Heun", "Path", "Sampler", "Time"]


@dataclass(frozen=True)
class Time:
    """A time of the process x_t = alpha (x + v n), with alpha and v there."""

    t: float
    alpha: float
    v: float


@dataclass(frozen=True)
class Sampler(ABC):
    """Draw fields of the prior that a denoiser stands for.

    Attributes:
        steps: Number of steps, each one evaluation of the denoiser unless its class says otherwise.
    """

    steps: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps={self.steps}; give at least 1")

    def sample(
        self,
        denoiser: AnchoredDenoiser,
        count: int,
        *,
        at_once: int | None = None,
        generator: torch.Generator | None = None,
        like: Tensor | None = None,
    ) -> Tensor:
        """Draw fields (count, channel, node), standardized anomalies, without gradients.

        Args:
            denoiser: A `DiffusionPrior`, an `AnalyticDiffusion`, or the like.
            count: Number of fields.
            at_once: Largest number of fields that are denoised together; all by default. Fewer
                need less memory, and are other draws.
            generator: CPU generator of all noise, the initial state's first.
            like: Tensor of the dtype and device to draw in; float32 on the CPU by default.
        """
        like = torch.empty(0) if like is None else like
        at_once = max(1, count) if at_once is None else at_once
        sizes = [min(at_once, count - start) for start in range(0, max(1, count), at_once)]
        return torch.cat([self._draw(denoiser, size, generator, like) for size in sizes])

    def _draw(
        self,
        denoiser: AnchoredDenoiser,
        count: int,
        generator: torch.Generator | None,
        like: Tensor,
    ) -> Tensor:
        shape = (count, denoiser.channels, denoiser.domain.num_nodes)

        def noise() -> Tensor:
            return torch.randn(shape, generator=generator, dtype=like.dtype).to(like.device)

        return self.walk(denoiser, noise)

    @torch.no_grad()
    def walk(self, denoiser: AnchoredDenoiser, noise: Callable[[], Tensor]) -> Tensor:
        """Draw fields without gradients, from the caller's white noise (count, channel, node).

        Args:
            denoiser: A `DiffusionPrior`, an `AnalyticDiffusion`, or the like.
            noise: Function called once for the initial state, and then by each step that needs it.
        """
        times = self.times(denoiser)
        path = Path(denoiser, math.hypot(1.0, times[0].v) * noise(), noise)
        for now, then in pairwise(times):
            path.s = self._step(path, now, then)
        return denoiser.calibrated(path.denoise(path.s, times[-1]))

    def times(self, denoiser: AnchoredDenoiser) -> list[Time]:
        """Return the grid of times that the sampler walks down, the first and the last included."""
        schedule = denoiser.schedule
        first, last = (float(schedule.log_snr(end)) for end in (schedule.T, schedule.eps))
        log_snr = torch.linspace(first, last, self.steps + 1, dtype=torch.float64)
        t = schedule.time_of_snr(log_snr.exp()).clamp(schedule.eps, schedule.T)
        rows = zip(t, schedule.alpha(t), torch.exp(-0.5 * log_snr), strict=True)
        return [Time(float(t), float(alpha), float(v)) for t, alpha, v in rows]

    @abstractmethod
    def _step(self, path: Path, now: Time, then: Time) -> Tensor:
        """Return the state s at the next time."""


class Path:
    """A batch of states s = x_t / alpha on their way, with the denoiser and noise for steps."""

    def __init__(self, denoiser: AnchoredDenoiser, s: Tensor, noise: Callable[[], Tensor]) -> None:
        self._denoiser, self.s, self.noise = denoiser, s, noise
        self.before: tuple[Tensor, Time] | None = None

    def denoise(self, s: Tensor, time: Time) -> Tensor:
        """Return E[x | s]."""
        return self._denoiser.predict(time.alpha * s, time.t)


class Ancestral(Sampler):
    """Draw each state from q(x_s | x_t, x = D): DDPM (Ho et al. 2020, arXiv 2006.11239, eq. 7)."""

    def _step(self, path: Path, now: Time, then: Time) -> Tensor:
        kept = (then.v / now.v) ** 2
        mean = kept * path.s + (1.0 - kept) * path.denoise(path.s, now)
        return mean + then.v * math.sqrt(1.0 - kept) * path.noise()


class DDIM(Sampler):
    """Euler's method in v for the probability-flow ODE: DDIM (Song et al. 2021, arXiv 2010.02502).

    It is of first order.
    """

    def _step(self, path: Path, now: Time, then: Time) -> Tensor:
        kept = then.v / now.v
        return kept * path.s + (1.0 - kept) * path.denoise(path.s, now)


class Heun(Sampler):
    """Heun's method in v (Karras et al. 2022, arXiv 2206.00364, algorithm 1, without churn).

    It is of second order, with two evaluations a step.
    """

    def _step(self, path: Path, now: Time, then: Time) -> Tensor:
        slope = (path.s - path.denoise(path.s, now)) / now.v
        ahead = path.s + (then.v - now.v) * slope
        slope = 0.5 * (slope + (ahead - path.denoise(ahead, then)) / then.v)
        return path.s + (then.v - now.v) * slope


class DPMSolver(Sampler):
    """DPM-Solver++(2M): a multistep method in log v (Lu et al. 2022, arXiv 2211.01095, eq. 15).

    It is of second order: D is extrapolated linearly over steps. The first step is DDIM's.
    """

    def _step(self, path: Path, now: Time, then: Time) -> Tensor:
        clean = ahead = path.denoise(path.s, now)
        if path.before is not None:
            older, before = path.before
            share = math.log(now.v / then.v) / math.log(before.v / now.v)
            ahead = clean + 0.5 * share * (clean - older)
        path.before = (clean, now)
        kept = then.v / now.v
        return kept * path.s + (1.0 - kept) * ahead
