"""A denoiser that corrects the exact denoiser of a Gaussian anchor, at every noise level."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError, ModelError
from apsgeo.nn import FourierEmbedding, UNet
from apsgeo.priors.gaussian import GaussianPrior
from apsgeo.priors.schedule import VPSchedule

__all__ = ["COND_DIM", "AnchoredDenoiser"]

COND_DIM = 64


class AnchoredDenoiser(nn.Module):
    r"""A denoiser on a domain that corrects the exact denoiser of a Gaussian anchor.

    With x_t = alpha x + sigma n, n standard normal, and gamma = alpha^2 / sigma^2,

        denoise(x_t, t) = D_G(x_t / alpha; sigma / alpha) + c_out(t) net(D_G, residual, log gamma)

    where D_G is the anchor's exact posterior mean, residual = (x_t - alpha D_G) / sigma, and c_out
    the anchor's rms posterior standard deviation. A network that starts at zero starts at the
    optimal denoiser of the anchor. Without an anchor the network sees x_t alone, and its skip
    connection is the denoiser of N(0, I): D = alpha x_t + sigma net(x_t, log gamma), the
    preconditioning of Karras et al. (2022, arXiv 2206.00364, table 1) for data of unit variance.

    The anchor is evaluated on a fixed grid of levels only, equally spaced in log gamma between
    ``schedule.T`` and ``schedule.eps``, so that its factorizations are reused; between two levels
    D_G is the linear interpolation, in log gamma, of the denoisers of both. This defines the
    denoiser; per eigenvalue of the covariance it is within spacing^2 / 83 of the exact D_G. A
    ``shrinkage`` in [0, 1] per level, one until training sets it, multiplies the correction.

    Signals are (batch, channel, node) in standardized anomalies (no unit, variance about one).

    Args:
        domain: where the signal lives.
        channels: channels of the signal.
        network: maps (batch, 2 channels with an anchor, else channels; node) and a condition
            (batch, 64) to (batch, channels, node); a `UNet` of default size if not given.
        schedule: the noise schedule; `VPSchedule()` if not given.
        anchor: the Gaussian prior to correct, or None for the plain form.
        levels: number of levels of the grid, at least 2.
        residual_std: c_out at the levels (levels,), if already known.
    """

    residual_std: Tensor
    shrinkage: Tensor

    def __init__(
        self,
        domain: Domain,
        channels: int,
        network: nn.Module | None = None,
        schedule: VPSchedule | None = None,
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
        if network is None:
            inputs = channels if anchor is None else 2 * channels
            network = UNet(domain, inputs, channels, cond_dim=COND_DIM)
        self.network = network
        self.embedding = FourierEmbedding(COND_DIM)
        ends = torch.tensor([self.schedule.T, self.schedule.eps])
        first, last = self.schedule.log_snr(ends).tolist()
        self.log_snr = torch.linspace(first, last, levels, dtype=torch.float64)
        self.noise_std: list[float] = torch.exp(-0.5 * self.log_snr).tolist()
        if residual_std is None:
            residual_std = self._anchor_residual_std()
        self.register_buffer("residual_std", residual_std.double())
        self.register_buffer("shrinkage", torch.ones(levels, dtype=torch.float64))

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

    def denoise(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return the estimate of x given x_t = alpha x + sigma n; differentiable in x_t.

        Args:
            x_t: noisy signals (batch, channel, node).
            t: one time or one a record (batch,), between ``schedule.eps`` and ``schedule.T``.

        Raises:
            InputError: a shape does not fit, or a time is outside the schedule.
        """
        self._check(x_t)
        log_snr = self._log_snr_of(t, len(x_t))
        mean = self.anchor_mean(x_t, log_snr)
        return mean + self.correction(x_t, mean, log_snr)

    def score(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return grad log p_t(x_t) = (alpha D - x_t) / sigma^2 (Tweedie's formula)."""
        clean = self.denoise(x_t, t)
        alpha, sigma = _alpha_sigma(self._log_snr_of(t, len(x_t)), x_t)
        return (alpha * clean - x_t) / sigma**2

    def anchor_mean(
        self, x_t: Tensor, log_snr: Tensor, anchor: GaussianPrior | None = None
    ) -> Tensor:
        """Return the anchor's denoised signals at log-SNRs (batch,), CPU and float64.

        Another ``anchor`` than the prior's own serves training on fields that the own has seen.
        """
        alpha, _ = _alpha_sigma(log_snr, x_t)
        anchor = self.anchor if anchor is None else anchor
        if anchor is None:
            return alpha * x_t
        clean, hats = x_t / alpha, self._hats(log_snr)
        mean = torch.zeros_like(x_t)
        for level in hats.any(0).nonzero().flatten().tolist():
            rows = hats[:, level].nonzero().flatten().to(x_t.device)
            share = hats[:, level].to(x_t)[rows, None, None]
            part = anchor.denoise(clean[rows], self.noise_std[level])
            mean = mean.index_add(0, rows, share * part)
        return mean

    def correction(self, x_t: Tensor, mean: Tensor, log_snr: Tensor) -> Tensor:
        """Return what the network adds to the anchor's ``mean``, (batch, channel, node)."""
        parameter = next(self.network.parameters())
        inputs = x_t
        if self.anchor is not None:
            alpha, sigma = _alpha_sigma(log_snr, x_t)
            inputs = torch.cat([mean, (x_t - alpha * mean) / sigma], dim=1)
        cond = self.embedding(log_snr.to(parameter) / 4.0)
        out = self.network(inputs.to(parameter), cond).to(x_t)
        scale = self.output_std(log_snr) * (self._hats(log_snr) @ self.shrinkage.cpu())
        return scale.to(x_t)[:, None, None] * out

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
        alpha, sigma = _alpha_sigma(log_snr, x0)
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
        return alpha * x0 + sigma * noise, noise

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return a JSON-able configuration and the tensors; neither domain nor anchor is in it."""
        config = {
            "channels": self.channels,
            "levels": self.levels,
            "anchored": self.anchor is not None,
            "schedule": self.schedule.to_config(),
            "network": self.network.config,
        }
        return config, {name: t.detach().cpu() for name, t in self.state_dict().items()}

    @classmethod
    def from_state(
        cls,
        config: dict[str, Any],
        tensors: dict[str, Tensor],
        domain: Domain,
        anchor: GaussianPrior | None = None,
    ) -> Self:
        """Rebuild a prior from `to_state`, its domain and the anchor that it was trained with.

        Raises:
            ModelError: an anchor is missing or not wanted, or the tensors do not fit.
        """
        if config["anchored"] != (anchor is not None):
            raise ModelError(
                f"the diffusion prior was saved with anchored={config['anchored']}; "
                f"{'pass its Gaussian anchor' if config['anchored'] else 'pass no anchor'}"
            )
        denoiser = cls(
            domain,
            int(config["channels"]),
            UNet(domain, **config["network"]),
            VPSchedule(**config["schedule"]),
            anchor,
            levels=int(config["levels"]),
            residual_std=tensors["residual_std"],
        )
        try:
            denoiser.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelError(
                f"the diffusion prior's tensors do not fit its network: {error}"
            ) from error
        return denoiser.eval()


def _alpha_sigma(log_snr: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma (batch, 1, 1): alpha^2 = sigmoid(log_snr), alpha^2 + sigma^2 = 1."""
    each = log_snr[:, None, None]
    return torch.exp(0.5 * logsigmoid(each)).to(like), torch.exp(0.5 * logsigmoid(-each)).to(like)
