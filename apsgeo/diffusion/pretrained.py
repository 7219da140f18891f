"""Priors that others trained: diffusers' `UNet2DModel` and azula's denoisers.

Neither package is imported before it is used, and only weights in safetensors are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from apsgeo.diffusion.density import DiffusionDensity
from apsgeo.diffusion.schedule import Schedule
from apsgeo.domains.base import Domain
from apsgeo.domains.image.domain import ImageDomain
from apsgeo.errors import InputError, ModelError

__all__ = ["FunctionSchedule", "PretrainedDiffusion", "from_azula", "from_diffusers"]

_BISECTIONS = 60  # bisections of a range of times, down to float64's rounding
_CLEAN: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda x_t, out, alpha, sigma: (x_t - sigma * out) / alpha,
    "sample": lambda x_t, out, alpha, sigma: out,
    "v_prediction": lambda x_t, out, alpha, sigma: alpha * x_t - sigma * out,
}
"""E[x | x_t] by the kind of a network's prediction, where alpha^2 + sigma^2 = 1."""


class FunctionSchedule(Schedule):
    """A schedule that is known as a function of time alone.

    Args:
        alpha_sigma_at: Differentiable map of float64 times to alpha and sigma.
        eps: First time.
        T: Last time.

    Raises:
        InputError: If the signal-to-noise ratio is not finite at the ends, or does not fall.
    """

    kind: ClassVar[str] = "function"

    def __init__(
        self, alpha_sigma_at: Callable[[Tensor], tuple[Tensor, Tensor]], eps: float, T: float
    ) -> None:
        self._alpha_sigma_at, self._eps, self._last = alpha_sigma_at, eps, T
        along = self.log_snr(torch.linspace(eps, T, 101, dtype=torch.float64))
        if not bool(torch.isfinite(along).all() and (along.diff() < 0).all()):
            raise InputError(
                f"the signal-to-noise ratio does not fall from a finite value at {eps} to one at "
                f"{T}; give times between which it does"
            )

    @property
    def T(self) -> float:
        """The last time."""
        return self._last

    @property
    def eps(self) -> float:
        """The first time."""
        return self._eps

    def log_snr(self, t: float | Tensor) -> Tensor:
        """Return 2 log(alpha / sigma)."""
        alpha, sigma = self._alpha_sigma_at(torch.as_tensor(t, dtype=torch.float64))
        return 2.0 * torch.log(alpha / sigma)

    def rate(self, t: float | Tensor) -> Tensor:
        """Return the rate at which log(snr) falls, by autograd."""
        with torch.enable_grad():
            time = torch.as_tensor(t, dtype=torch.float64).detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_snr(time).sum(), time)
        return -slope

    def time_of_snr(self, snr: float | Tensor) -> Tensor:
        """Return the time at which the signal-to-noise ratio is ``snr``, by bisection."""
        wanted = torch.log(torch.as_tensor(snr, dtype=torch.float64))
        low, high = torch.full_like(wanted, self.eps), torch.full_like(wanted, self.T)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            early = self.log_snr(middle) > wanted
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return 0.5 * (low + high)

    def alpha_sigma(self, log_snr: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at the time of a signal-to-noise ratio."""
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
        return self._alpha_sigma_at(self.time_of_snr(torch.exp(log_snr)))

    def to_config(self) -> dict[str, Any]:
        """Refuse: a function cannot be saved.

        Raises:
            ModelError: If it is called at all.
        """
        raise ModelError(
            "a prior that others trained is not saved here; open it where it came from"
        )


class PretrainedDiffusion(DiffusionDensity):
    r"""The samplers and log-densities of this package for a denoiser that others trained.

    Signals are in the units of the network: for most image models, values from -1 to 1. The
    estimates of the log-density refer to N(0, I), by whose denoiser nothing is corrected here.

    Args:
        domain: Domain of the signal; nodes of an image become (batch, channel, row, column).
        channels: Number of channels of the signal.
        network: Network behind ``clean``: its parameters move with the prior from device to device.
        clean: Map of x_t and times (batch,), float64, to E[x | x_t], (batch, channel, *shape).
        schedule: Noise schedule of the network.
        levels: Number of levels of the grid of the anchored estimate.
    """

    def __init__(
        self,
        domain: Domain,
        channels: int,
        network: torch.nn.Module,
        clean: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        *,
        levels: int = 40,
    ) -> None:
        super().__init__(domain, channels, schedule, levels=levels)
        self.network, self._clean = network.eval().requires_grad_(False), clean
        self._shape = domain.shape if isinstance(domain, ImageDomain) else (domain.num_nodes,)

    def correction(self, x_t: Tensor, mean: Tensor, log_snr: Tensor) -> Tensor:
        """Return the network's denoised signal less ``mean``, (batch, channel, node)."""
        times = self.schedule.time_of_snr(torch.exp(log_snr))
        return self._clean(x_t.unflatten(-1, self._shape), times).flatten(2).to(x_t) - mean


def from_azula(
    denoiser: Any,
    domain: Domain,
    channels: int,
    *,
    eps: float = 0.0,
    T: float = 1.0,
    levels: int = 40,
) -> PretrainedDiffusion:
    """Adapt an `azula.denoise.Denoiser`, whose times are from 0 to 1.

    Args:
        denoiser: Denoiser with a schedule, which takes x_t (batch, channel, row, column), or
            (batch, channel, node), and times (batch,).
        domain: Domain that its signals live on.
        channels: Number of channels of its signals.
        eps: First time, at which the signal-to-noise ratio must be finite.
        T: Last time, at which it must be above 0.
        levels: Number of levels of the grid of the anchored estimate.

    Raises:
        InputError: If the schedule's signal-to-noise ratio does not fall between finite values.
    """
    schedule = FunctionSchedule(denoiser.schedule, eps, T)

    def clean(x_t: Tensor, times: Tensor) -> Tensor:
        return denoiser(x_t, times.to(x_t)).mean

    return PretrainedDiffusion(domain, channels, denoiser, clean, schedule, levels=levels)


def from_diffusers(
    folder: str | os.PathLike[str], domain: ImageDomain | None = None, *, levels: int = 40
) -> PretrainedDiffusion:
    """Open a folder with a `UNet2DModel` of Hugging Face's diffusers (extra ``pretrained``).

    Args:
        folder: Folder of a pipeline, such as DDPM's: ``unet/`` with config.json and
            diffusion_pytorch_model.safetensors, and ``scheduler/`` with scheduler_config.json.
            Nothing is fetched, and pickled weights are refused.
        domain: Domain of the image, if the network's configuration does not say its size.
        levels: Number of levels of the grid of the anchored estimate.

    Returns:
        The prior. The signal-to-noise ratio of the scheduler's steps is interpolated between them.

    Raises:
        InputError: If diffusers is not installed, or the size is not known.
        ModelError: If the folder holds no such model in safetensors, or one that needs classes.
    """
    try:
        from diffusers import DDPMScheduler, UNet2DModel
    except ImportError as error:
        raise InputError(
            f"diffusers cannot be imported ({error}); install apsgeo with the extra 'pretrained'"
        ) from error
    path = Path(folder)
    for file in ("unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        if not (path / file).is_file():
            raise ModelError(f"{path} has no {file}; give the folder of a pipeline, in safetensors")
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    network = UNet2DModel.from_pretrained(path / "unet", **options)
    # Only the numbers are taken of the scheduler, which any other of diffusers shares.
    settings = json.loads((path / "scheduler/scheduler_config.json").read_text(encoding="utf-8"))
    steps = DDPMScheduler.from_config(settings)
    predicted, size = steps.config.prediction_type, network.config.sample_size
    if predicted not in _CLEAN or network.config.class_embed_type or network.class_embedding:
        raise ModelError(
            f"{path} predicts {predicted!r}, classes {network.config.class_embed_type!r}; a "
            f"network without classes that predicts one of {', '.join(_CLEAN)} was expected"
        )
    if domain is None:
        if size is None:
            raise InputError(f"{path} does not say the size of its images; give domain=")
        domain = ImageDomain(*((size, size) if isinstance(size, int) else size))
    channels, dtype = network.config.in_channels, next(network.parameters()).dtype
    share = steps.alphas_cumprod.double()
    schedule = FunctionSchedule(_between(torch.logit(share)), 0.0, float(len(share) - 1))

    def clean(x_t: Tensor, times: Tensor) -> Tensor:
        alpha, sigma = (
            f(times)[:, None, None, None].to(x_t) for f in (schedule.alpha, schedule.sigma)
        )
        out = network(x_t.to(dtype), times.to(x_t.device, dtype)).sample[:, :channels]
        return _CLEAN[predicted](x_t, out.to(x_t), alpha, sigma)

    return PretrainedDiffusion(domain, channels, network, clean, schedule, levels=levels)


def _between(log_snr: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return alpha and sigma, of variance one in sum, as a function of the number of a step."""

    def alpha_sigma_at(t: Tensor) -> tuple[Tensor, Tensor]:
        before = t.detach().floor().clamp(0, len(log_snr) - 2).long()
        here = log_snr[before] + (t - before) * (log_snr[before + 1] - log_snr[before])
        return torch.exp(0.5 * logsigmoid(here)), torch.exp(0.5 * logsigmoid(-here))

    return alpha_sigma_at
