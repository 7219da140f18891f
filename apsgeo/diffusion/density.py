"""Draws, and three estimates of the log-density, of what a denoiser stands for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from apsgeo.diffusion.denoiser import AnchoredDenoiser
from apsgeo.diffusion.estimate import Estimate
from apsgeo.diffusion.ode import ode_log_prob
from apsgeo.diffusion.samplers import DPMSolver
from apsgeo.errors import InputError
from apsgeo.linalg.constants import LOG_2PI

__all__ = ["DiffusionDensity"]

_SAMPLER_STEPS, _SAMPLED_AT_ONCE = 20, 120


class DiffusionDensity(AnchoredDenoiser):
    """A denoiser with the draws and the log-densities that it implies."""

    def elbo(
        self,
        x0: Tensor,
        *,
        generator: torch.Generator | None = None,
        samples: int = 1,
        points: int = 8,
        times: Literal["importance", "uniform"] = "importance",
        differentiate_network: bool = True,
    ) -> Estimate:
        r"""Estimate the evidence lower bound b(x0) <= log p(x0), without bias; differentiable.

        The bound of docs/method.md by denoising score matching (Song et al. 2021, arXiv 2101.09258,
        theorem 3), which depends on the schedule by the range of gamma alone. For VP, with
        f = -beta x / 2, so that -(2 / g^2) div f = d, with E|grad log p(x_t|x0)|^2 = d / sigma^2
        and s - grad log p(x_t|x0) = alpha (D - x0) / sigma^2, and since
        d gamma / dt = -beta alpha^2 / sigma^4, the integral from eps to T is

            1/2 int_{gamma_T}^{gamma_eps} E|x0 - D|^2 d gamma - d/2 log(sigma_T^2 / sigma_eps^2).

        The prior term is E log N(x_T; 0, I) = -(d log(2 pi) + alpha_T^2 |x0|^2 + d sigma_T^2) / 2.
        Below eps stands a reconstruction p(x0|x_eps) = N(x0; D(x_eps), tau^2), tau = c_out(eps),
        with E[log p(x0|x_eps) - log p(x_eps|x0)] = d/2 log(sigma_eps^2 / tau^2) + d/2 -
        E|x0 - D|^2 / (2 tau^2). Nothing is left out: at every x0 the sum bounds the log density
        of the model that runs the reverse diffusion from N(0, I) to eps and then reconstructs.
        (tau does not depend on the network, so that a perfect network may leave a gap here.)

        One pass takes ``points`` systematic times with one random offset, shared by the batch,
        and fresh noise at each, plus one denoising for the reconstruction. The error that the
        anchor makes on its own draws is integrated exactly; only the difference is sampled.

        Args:
            x0: Signals (batch, channel, node).
            generator: CPU generator of times and noise.
            samples: Independent passes; the standard error comes from their spread.
            points: Times in a pass.
            times: "importance" draws them uniform in log gamma (for VP, density beta / sigma^2),
                "uniform" in t, with the weights that either needs.
            differentiate_network: False leaves out the network's Jacobian in the gradient with
                respect to x0 (the anchor's is kept): cheaper, biased once the network is trained,
                as in score distillation (Poole et al. 2022, arXiv 2209.14988). The value is the
                same.

        Returns:
            The estimate and its standard error, in nats, each (batch,), float64.

        Raises:
            InputError: If a shape does not fit, or ``samples`` or ``points`` is below 1.
        """
        self._check(x0)
        low, high = self.log_snr[0], self.log_snr[-1]
        dims, log_var_t = x0[0].numel(), float(logsigmoid(-low))
        log_tau2 = 2.0 * math.log(float(self.residual_std[-1]))
        # The reconstruction's d/2 is gone against the reference error d tau^2 / (2 tau^2).
        constant = log_var_t - math.exp(log_var_t) - LOG_2PI - log_tau2 - self._kept_integral()
        constant *= 0.5 * dims
        energy = 0.5 * float(torch.sigmoid(low)) * _sum(x0 * x0)
        passes = []
        for _ in range(_at_least_one("samples", samples)):
            value = constant - energy
            for place in _systematic(_at_least_one("points", points), generator):
                if times == "importance":
                    log_snr, density = low + place * (high - low), 1.0 / float(high - low)
                else:
                    t = self.schedule.eps + place * (self.schedule.T - self.schedule.eps)
                    span = self.schedule.T - self.schedule.eps
                    density = 1.0 / float(self.schedule.rate(t) * span)
                    log_snr = self.schedule.log_snr(t)
                excess = self._excess_error(x0, log_snr, generator, differentiate_network)
                value = value - excess / (2.0 * density * points)
            excess = self._excess_error(x0, high, generator, differentiate_network)
            passes.append(value - excess / (2.0 * self._kept(high)))
        return Estimate.of(torch.stack(passes))

    def anchored_log_prob(
        self,
        x0: Tensor,
        *,
        generator: torch.Generator | None = None,
        samples: int = 1,
        points: int | None = None,
        differentiate_network: bool = True,
    ) -> Estimate:
        r"""Estimate log p(x0) from the anchor's by the pointwise I-MMSE identity; differentiable.

            log p(x0) = log p_G(x0) + 1/2 int_0^inf E_n[ |x0 - D_G|^2 - |x0 - D|^2 ] d gamma

        (Kong, Brekelmans & Ver Steeg 2023, arXiv 2302.03792), both terms on the same noise, and
        p_G = N(0, I) without an anchor. It equals log p_G exactly while the network is zero. For
        an optimal D it is log p(x0) at every x0; for another D it is a lower bound on average over
        x0 from the data's distribution, not at each x0: where no data is, it is unconstrained.

        The integral is the trapezoidal rule in log gamma over the level grid; outside the grid D
        is taken to be D_G, so that the tails vanish. On average over data of mean zero and the
        anchor's covariance C, the estimate loses at most gamma_T tr(C) / 2 nats below the grid
        (the anchor's mse is at most tr(C), the optimum's at least 0) and J / (2 gamma_eps) above
        it, J = E|grad log p|^2: there mse_G <= d / gamma, and by van Trees' inequality the
        optimum's mse is at least d^2 / (d gamma + J).

        Args:
            x0: Signals (batch, channel, node).
            generator: CPU generator of levels and noise.
            samples: Independent passes; the standard error comes from their spread.
            points: Levels in a pass, drawn systematically with a random offset where the anchor is
                uncertain (an unbiased estimate of the rule); None takes all of them.
            differentiate_network: See `elbo`.

        Returns:
            The estimate and its standard error, in nats, each (batch,), float64.

        Raises:
            InputError: If a shape does not fit, ``samples`` is below 1, or ``points`` is not
                between 1 and ``levels``.
        """
        gain = self.anchored_gain(
            x0,
            generator=generator,
            samples=samples,
            points=points,
            differentiate_network=differentiate_network,
        )
        return Estimate(self._base_log_prob(x0) + gain.value, gain.standard_error)

    def anchored_gain(
        self,
        x0: Tensor,
        *,
        generator: torch.Generator | None = None,
        samples: int = 1,
        points: int | None = None,
        differentiate_network: bool = True,
    ) -> Estimate:
        """Estimate log p(x0) - log p_G(x0) alone; arguments are those of `anchored_log_prob`."""
        self._check(x0)
        points = self.levels if points is None else points
        if not 1 <= points <= self.levels:
            raise InputError(f"points={points}; give 1 to {self.levels}, the number of levels")
        passes = []
        for _ in range(_at_least_one("samples", samples)):
            value = x0.new_zeros(len(x0), dtype=torch.float64)
            for level, weight in self._drawn_levels(points, generator):
                error, change, _ = self._errors(
                    x0, self.log_snr[level], generator, differentiate_network
                )
                value = value + weight * _sum((2.0 * error - change) * change)
            passes.append(value)
        return Estimate.of(torch.stack(passes))

    def _drawn_levels(
        self, points: int, generator: torch.Generator | None
    ) -> Iterator[tuple[int, float]]:
        """Yield levels and the weights of their errors: all of them, or ``points`` drawn of them.

        With the share r of its input that the anchor keeps, a level's chance is a tenth of an even
        one plus a part proportional to sqrt(r (1 - r)). For one eigenvalue r (1 - r) is
        dr / d log gamma, large where it passes from noise to signal and nothing is to be gained
        elsewhere.
        """
        weights = 0.5 * self.quadrature * torch.exp(self.log_snr)
        chances = torch.full_like(weights, 1.0 / self.levels)
        if points < self.levels:
            kept = (torch.exp(self.log_snr) * self.residual_std.cpu() ** 2).clamp(0.0, 1.0)
            rise = (kept * (1.0 - kept)).sqrt() + torch.finfo(kept.dtype).tiny
            chances = 0.1 * chances + 0.9 * rise / rise.sum()
        ends = chances.cumsum(0)
        for place in _systematic(points, generator):
            level = min(int(torch.searchsorted(ends, place, right=True)), self.levels - 1)
            yield level, float(weights[level] / (points * chances[level]))

    def ode_log_prob(
        self,
        x0: Tensor,
        *,
        probes: int | None = None,
        generator: torch.Generator | None = None,
        tolerance: float = 1e-6,
    ) -> Estimate:
        """Return log p(x0) by the probability-flow ODE: `apsgeo.diffusion.ode.ode_log_prob`.

        The anchor, if there is one, is the control variate of Hutchinson's estimate.
        """
        self._check(x0)
        return ode_log_prob(
            self, x0, probes=probes, anchor=self.anchor, generator=generator, tolerance=tolerance
        )

    def estimate_log_prob(
        self, x0: Tensor, *, method: Literal["anchored", "elbo", "ode"] = "anchored", **options: Any
    ) -> Estimate:
        """Estimate log p(x0) of signals (batch, channel, node).

        Args:
            x0: Signals (batch, channel, node).
            method: "anchored" for `anchored_log_prob`, "elbo" for `elbo`, a lower bound, and "ode"
                for `ode_log_prob`.
            options: Those of the method.

        Returns:
            The estimate and its standard error, in nats, each (batch,), float64.

        Raises:
            InputError: If a shape or an option does not fit, or there is no such method.
        """
        methods: dict[str, Callable[..., Estimate]] = {
            "anchored": self.anchored_log_prob,
            "elbo": self.elbo,
            "ode": self.ode_log_prob,
        }
        if method not in methods:
            raise InputError(f"method={method!r}; give one of {', '.join(methods)}")
        return methods[method](x0, **options)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (count, channel, node) fields, float32, in 20 steps of `DPMSolver`."""
        solver = DPMSolver(_SAMPLER_STEPS)
        return solver.sample(self, count, at_once=_SAMPLED_AT_ONCE, generator=generator)

    def _base_log_prob(self, x0: Tensor) -> Tensor:
        if self.anchor is not None:
            return self.anchor.log_prob(x0).double()
        return -0.5 * (_sum(x0 * x0) + x0[0].numel() * LOG_2PI)

    def _errors(
        self,
        x0: Tensor,
        log_snr: Tensor,
        generator: torch.Generator | None,
        differentiate_network: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Perturb x0 to one log-SNR; return x0 - D_G, D - D_G and the noise, each as x0."""
        each = log_snr.expand(len(x0))
        x_t, noise = self.perturb(x0, each, generator)
        mean = self.anchor_mean(x_t, each)
        with torch.set_grad_enabled(torch.is_grad_enabled() and differentiate_network):
            change = self.correction(x_t, mean, each)
        return x0 - mean, change, noise

    def _kept(self, log_snr: Tensor) -> float:
        """Return r = gamma c_out^2, the share of its input that the anchor keeps, in (0, 1)."""
        return math.exp(float(log_snr)) * float(self.output_std(log_snr[None])) ** 2

    def _kept_integral(self) -> float:
        """Return the integral of r over log gamma; between levels log r is linear."""
        log_kept = self.log_snr + 2.0 * torch.log(self.residual_std.cpu())
        rise = log_kept.diff()
        ratio = torch.where(rise.abs() < 1e-6, 1.0 + 0.5 * rise, torch.expm1(rise) / rise)
        return self.spacing * float((torch.exp(log_kept[:-1]) * ratio).sum())

    def _excess_error(
        self,
        x0: Tensor,
        log_snr: Tensor,
        generator: torch.Generator | None,
        differentiate_network: bool,
    ) -> Tensor:
        """Estimate gamma E|x0 - D|^2 - d r (batch,) without bias.

        d r is the anchor's error on its own draws: taking it out spares the estimate the noise of
        the random times. |n|^2 - d, of mean zero, is a control variate: a linear denoiser that
        keeps the share r of its input errs by r n / sqrt(gamma), nearly all of it at high SNR.
        """
        error, change, noise = self._errors(x0, log_snr, generator, differentiate_network)
        dims, kept = noise[0].numel(), self._kept(log_snr)
        scaled = math.exp(float(log_snr)) * _sum((error - change) ** 2)
        return scaled - kept**2 * (_sum(noise**2) - dims) - kept * dims


def _sum(x: Tensor) -> Tensor:
    """Sum over everything but the batch, in float64."""
    return x.flatten(1).sum(1, dtype=torch.float64)


def _systematic(points: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Yield ``points`` equally spaced places in [0, 1) with one random offset."""
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    for index in range(points):
        yield (index + offset) / points


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{name}={value}; give at least 1")
    return value
