"""Denoisers that correct the exact denoiser of a Gaussian anchor, at every noise level."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from apsgeo.diffusion.schedule import Schedule, VPSchedule
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.prior import GaussianPrior

__all__ = ["AnchoredDenoiser"]

_ROUNDING = 1e-6  # of a time


class AnchoredDenoiser(nn.Module, ABC):
    r"""A denoiser on a domain that corrects the exact denoiser of a Gaussian anchor.

    With x_t = alpha x + sigma n, n standard normal, and gamma = alpha^2 / sigma^2,

        predict(x_t, t) = D_G(x_t / alpha; sigma / alpha) + correction

    where D_G is the anchor's exact posterior mean; c_out(t) is the anchor's rms posterior standard
    deviation. Without an anchor D_G is the denoiser of N(0, I), and c_out^2 = 1 / (1 + gamma). A
    subclass gives the correction.

    The anchor is evaluated on a fixed grid of levels only, equally spaced in log gamma between
    ``schedule.T`` and ``schedule.eps``, so that its factorizations are reused; between two levels
    D_G is the linear interpolation, in log gamma, of the denoisers of both. Per eigenvalue of the
    covariance it is within spacing^2 / 83 of the exact D_G.

    Signals are (batch, channel, node) in standardized anomalies (no unit, variance about one).

    Args:
        domain: Domain that the signal lives on.
        channels: Number of channels of the signal.
        schedule: The noise schedule; `VPSchedule()` if not given.
        anchor: The Gaussian prior to correct, or None.
        levels: Number of levels of the grid, at least 2.
        residual_std: c_out at the levels (levels,), if already known.
    """

    residual_std: Tensor

    def __init__(
        self,
        domain: Domain,
        channels: int,
        schedule: Schedule | None = None,
        anchor: GaussianPrior | None = None,
        *,
        levels: int = 40,
        residual_std: Tensor | None = None,
    ) -> None:
        super().__init__()
        if levels < 2:
            raise InputError(f"levels={levels}; give at least 2")
        self.domain, self.channels, self.anchor = domain, channels, anchor
        self.schedule = VPSchedule() if schedule is None else schedule
        ends = torch.tensor([self.schedule.T, self.schedule.eps], dtype=torch.float64)
        first, last = self.schedule.log_snr(ends).tolist()
        self.log_snr = torch.linspace(first, last, levels, dtype=torch.float64)
        self.noise_std: list[float] = torch.exp(-0.5 * self.log_snr).tolist()
        if residual_std is None:
            residual_std = self._anchor_residual_std()
        self.register_buffer("residual_std", residual_std.double())

    @property
    def levels(self) -> int:
        """Number of levels of the grid."""
        return len(self.log_snr)

    @property
    def spacing(self) -> float:
        """Distance of neighbouring levels in log gamma."""
        return float(self.log_snr[1] - self.log_snr[0])

    @property
    def quadrature(self) -> Tensor:
        """Trapezoidal weights (levels,) of an integral over log gamma."""
        weights = torch.full((self.levels,), self.spacing, dtype=torch.float64)
        weights[[0, -1]] *= 0.5
        return weights

    def _anchor_residual_std(self) -> Tensor:
        if self.anchor is None:
            return torch.exp(0.5 * logsigmoid(-self.log_snr))
        values = [self.anchor.denoise_std(noise_std) for noise_std in self.noise_std]
        return torch.tensor(values, dtype=torch.float64).clamp_min(1e-8)

    def denoise(self, signal: Tensor, noise_std: float) -> Tensor:
        """Return E[x | x + noise_std n = signal], differentiable, as every prior does.

        Args:
            signal: Signals with noise (batch, channel, node).
            noise_std: Standard deviation of the noise, within the range of the schedule.

        Raises:
            InputError: If the shape does not fit, or the noise is not in the range.
        """
        schedule = self.schedule
        time = schedule.time_of_snr(noise_std**-2)
        if not schedule.eps - _ROUNDING <= float(time) <= schedule.T + _ROUNDING * schedule.T:
            least, most = self.noise_std[-1], self.noise_std[0]
            raise InputError(f"noise_std={noise_std}; give one from {least} to {most}")
        time = time.clamp(schedule.eps, schedule.T)
        return self.predict(float(schedule.alpha(time)) * signal, float(time))

    def predict(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return the estimate of x given x_t = alpha x + sigma n; differentiable in x_t.

        Args:
            x_t: Noisy signals (batch, channel, node).
            t: One time or one a record (batch,), between ``schedule.eps`` and ``schedule.T``.

        Raises:
            InputError: If a shape does not fit, or a time is outside the schedule.
        """
        self._check(x_t)
        log_snr = self._log_snr_of(t, len(x_t))
        mean = self.anchor_mean(x_t, log_snr)
        return mean + self.correction(x_t, mean, log_snr)

    def predict_noise(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return E[n | x_t] = (x_t - alpha D) / sigma, as x_t, with D what `predict` returns.

        By Tweedie's formula the score, grad log p_t(x_t), is -E[n | x_t] / sigma.
        """
        alpha, sigma = self.alpha_sigma(self._log_snr_of(t, len(x_t)), x_t)
        return (x_t - alpha * self.predict(x_t, t)) / sigma

    def predict_velocity(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return E[alpha n - sigma x | x_t] = (alpha x_t - (alpha^2 + sigma^2) D) / sigma.

        (Salimans & Ho 2022, arXiv 2202.00512, table 1.)
        """
        alpha, sigma = self.alpha_sigma(self._log_snr_of(t, len(x_t)), x_t)
        return (alpha * x_t - (alpha**2 + sigma**2) * self.predict(x_t, t)) / sigma

    def score(self, signal: Tensor, noise_std: float) -> Tensor:
        """Return the gradient of the log density of x + noise_std n, (D - signal) / noise_std^2."""
        return (self.denoise(signal, noise_std) - signal) / noise_std**2

    def calibrated(self, fields: Tensor) -> Tensor:
        """Return what samples (batch, channel, node) become at last: here, what they are."""
        return fields

    def anchor_mean(
        self, x_t: Tensor, log_snr: Tensor, anchor: GaussianPrior | None = None
    ) -> Tensor:
        """Return the anchor's denoised signals at log-SNRs (batch,), CPU and float64.

        Training passes another ``anchor`` on fields that the prior's own has seen.
        """
        alpha, sigma = self.alpha_sigma(log_snr, x_t)
        anchor = self.anchor if anchor is None else anchor
        if anchor is None:
            return alpha / (alpha**2 + sigma**2) * x_t
        clean, hats = x_t / alpha, self._hats(log_snr)
        mean = torch.zeros_like(x_t)
        for level in hats.any(0).nonzero().flatten().tolist():
            rows = hats[:, level].nonzero().flatten().to(x_t.device)
            share = hats[:, level].to(x_t)[rows, None, None]
            part = anchor.denoise(clean[rows], self.noise_std[level])
            mean = mean.index_add(0, rows, share * part)
        return mean

    @abstractmethod
    def correction(self, x_t: Tensor, mean: Tensor, log_snr: Tensor) -> Tensor:
        """Return what is added to the anchor's ``mean``, (batch, channel, node)."""

    def alpha_sigma(self, log_snr: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma (batch, 1, 1) at log-SNRs (batch,), as ``like``."""
        alpha, sigma = self.schedule.alpha_sigma(log_snr[:, None, None])
        return alpha.to(like), sigma.to(like)

    def output_std(self, log_snr: Tensor) -> Tensor:
        """Return c_out at log-SNRs (batch,), interpolated between the levels."""
        return torch.exp(self._hats(log_snr) @ torch.log(self.residual_std.cpu()))

    def _hats(self, log_snr: Tensor) -> Tensor:
        """Return the weights (batch, levels) of linear interpolation on the grid."""
        place = (log_snr - self.log_snr[0]) / self.spacing
        on_grid = place.round()
        place = torch.where((place - on_grid).abs() < 1e-6, on_grid, place)
        return (1.0 - (place[:, None] - torch.arange(self.levels)).abs()).clamp_min(0.0)

    def _log_snr_of(self, t: float | Tensor, batch: int) -> Tensor:
        times = torch.as_tensor(t, dtype=torch.float64).detach().cpu()
        low, high = self.schedule.eps, self.schedule.T
        if times.shape not in ((), (batch,)) or bool(((times < low) | (times > high)).any()):
            raise InputError(
                f"t is {t}; give one time, or one for each of the {batch} records, "
                f"between {low} and {high}"
            )
        return self.schedule.log_snr(times).expand(batch)

    def _check(self, x: Tensor) -> None:
        expected = (self.channels, self.domain.num_nodes)
        if x.ndim != 3 or tuple(x.shape[1:]) != expected:
            raise InputError(
                f"the signal has shape {tuple(x.shape)}; expected (batch, channel, node) = "
                f"(batch, {expected[0]}, {expected[1]})"
            )

    def perturb(
        self, x0: Tensor, log_snr: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return x_t = alpha x0 + sigma n at log-SNRs (batch,), and n, from a CPU generator."""
        alpha, sigma = self.alpha_sigma(log_snr, x0)
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
        return alpha * x0 + sigma * noise, noise
