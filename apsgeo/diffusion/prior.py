"""The diffusion prior: a network that corrects the denoiser of a Gaussian anchor."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from apsgeo.diffusion.density import DiffusionDensity
from apsgeo.diffusion.power import BandGain
from apsgeo.diffusion.schedule import Schedule, from_config
from apsgeo.domains.base import Domain
from apsgeo.errors import ModelError
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.measurement import Normals
from apsgeo.nn.function_space import FunctionSpaceNet
from apsgeo.nn.unet import FourierEmbedding, UNet

__all__ = ["COND_DIM", "DiffusionPrior"]

COND_DIM = 64


class DiffusionPrior(DiffusionDensity):
    r"""A denoising diffusion prior: a network on top of a Gaussian anchor, or a plain one.

    With x_t = alpha x + sigma n, n standard normal, and gamma = alpha^2 / sigma^2,

        predict(x_t, t) = D_G(x_t / alpha; sigma / alpha) + c_out(t) net(D_G, residual, log gamma)

    where D_G is the anchor's exact posterior mean, residual = (x_t - alpha D_G) / sigma, and c_out
    the anchor's rms posterior standard deviation. A network that starts at zero starts at the
    optimal denoiser of the anchor. Without an anchor the network sees c_in x_t alone, and its skip
    connection is the denoiser of N(0, I): with c_in = (alpha^2 + sigma^2)^(-1/2)

        predict(x_t, t) = c_in^2 alpha x_t + c_in sigma net(c_in x_t, log gamma),

    the preconditioning of Karras et al. (2022, arXiv 2206.00364, table 1) for data of unit
    variance, which for VP is D = alpha x_t + sigma net(x_t, log gamma).

    The grid of levels and its interpolation are those of `AnchoredDenoiser`, and define the
    denoiser. A ``shrinkage`` in [0, 1] per level, one until training sets it, multiplies the
    correction. It is trained by `apsgeo.diffusion.fit.train_diffusion`, which also fits
    ``gain``, what `calibrated` multiplies samples by in bands of scales.

    Signals are (batch, channel, node) in standardized anomalies (no unit, variance about one).

    Args:
        domain: Domain that the signal lives on.
        channels: Number of channels of the signal.
        network: Map of (batch, 2 channels with an anchor, else channels; node) and a condition
            (batch, 64) to (batch, channels, node); a `UNet` of default size by default.
        schedule: Noise schedule; `VPSchedule()` by default.
        anchor: The Gaussian prior to correct, or None for the plain form.
        levels: Number of levels of the grid, at least 2.
        residual_std: Standard deviation c_out (levels,) at the levels, if already known.
    """

    kind: ClassVar[str] = "unet"
    network_class: ClassVar[type[UNet] | type[FunctionSpaceNet]] = UNet

    shrinkage: Tensor
    gain: BandGain | None

    def __init__(
        self,
        domain: Domain,
        channels: int,
        network: nn.Module | None = None,
        schedule: Schedule | None = None,
        anchor: GaussianPrior | None = None,
        *,
        levels: int = 40,
        residual_std: Tensor | None = None,
    ) -> None:
        super().__init__(
            domain, channels, schedule, anchor, levels=levels, residual_std=residual_std
        )
        if network is None:
            sizes = self.network_channels(channels, anchor)
            network = self.network_class(domain, *sizes, cond_dim=COND_DIM)
        self.network = network
        self.embedding = FourierEmbedding(COND_DIM)
        self.register_buffer("shrinkage", torch.ones(levels, dtype=torch.float64))
        self.gain = None

    @staticmethod
    def network_channels(channels: int, anchor: GaussianPrior | None) -> tuple[int, int]:
        """Return the numbers of channels that the network takes and gives."""
        return channels if anchor is None else 2 * channels, channels

    def correction(self, x_t: Tensor, mean: Tensor, log_snr: Tensor) -> Tensor:
        """Return the correction (batch, channel, node) of the anchor's ``mean``."""
        parameter = next(self.network.parameters())
        alpha, sigma = self.alpha_sigma(log_snr, x_t)
        if self.anchor is None:
            inputs = x_t / (alpha**2 + sigma**2).sqrt()
        else:
            inputs = torch.cat([mean, (x_t - alpha * mean) / sigma], dim=1)
        cond = self.embedding(log_snr.to(parameter) / 4.0)
        out = self.network(inputs.to(parameter), cond).to(x_t)
        scale = self.output_std(log_snr) * (self._hats(log_snr) @ self.shrinkage.cpu())
        return scale.to(x_t)[:, None, None] * out

    def calibrated(self, fields: Tensor) -> Tensor:
        """Return samples (batch, channel, node) with the power of the data in bands of scales."""
        return fields if self.gain is None else self.gain(fields)

    def anomalies(
        self, normals: Normals, season: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw anomalies (batch, channel, node), of the whole year: seasons are not known to it."""
        return self.sample(len(season), generator) * normals.valid

    def log_density(
        self,
        normals: Normals,
        anomalies: Tensor,
        season: Tensor,
        *,
        generator: torch.Generator | None = None,
        points: int = 16,
    ) -> Tensor:
        """Estimate the log-density (batch,) of anomalies (batch, channel, node); differentiable."""
        bound = self.elbo if self.anchor is None else self.anchored_log_prob
        return bound(anomalies, generator=generator, points=points).value

    def with_gain(self) -> BandGain | None:
        """Give the prior a gain, of one at first, and return it.

        None if the domain has too few nodes for a band, or the prior is to serve other domains.
        """
        gain = BandGain(self.domain, self.channels)
        self.gain = gain.to(self.shrinkage.device) if gain.gain.numel() else None
        return self.gain

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return a JSON-able configuration and the tensors; neither domain nor anchor is in it."""
        config = {
            "kind": self.kind,
            "channels": self.channels,
            "levels": self.levels,
            "anchored": self.anchor is not None,
            "schedule": self.schedule.to_config(),
            "network": self.network.config,
            "calibrated": self.gain is not None,
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
            ModelError: If an anchor is missing or not wanted, or the tensors do not fit.
        """
        if config["anchored"] != (anchor is not None):
            raise ModelError(
                f"the diffusion prior was saved with anchored={config['anchored']}; "
                f"{'pass its Gaussian anchor' if config['anchored'] else 'pass no anchor'}"
            )
        denoiser = cls(
            domain,
            int(config["channels"]),
            cls.network_class(domain, **config["network"]),
            from_config({"kind": "vp"} | config["schedule"]),
            anchor,
            levels=int(config["levels"]),
            residual_std=tensors["residual_std"],
            **cls._more_of(config),
        )
        if config.get("calibrated", False):
            denoiser.with_gain()
        try:
            denoiser.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelError(
                f"the diffusion prior's tensors do not fit its network: {error}"
            ) from error
        return denoiser.eval()

    @staticmethod
    def _more_of(config: dict[str, Any]) -> dict[str, Any]:
        """Return further arguments of a subclass, from the entries that its `to_state` adds."""
        return {}
