"""The diffusion prior: a network that corrects the denoiser of a Gaussian anchor."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError, ModelError
from apsgeo.kinds import of_kind
from apsgeo.nn import NETWORKS, SIZES, FourierEmbedding, FunctionSpaceNet, UNet
from apsgeo.priors.density import DiffusionDensity
from apsgeo.priors.gaussian import GaussianPrior
from apsgeo.priors.schedule import Schedule, VPSchedule, from_config

__all__ = ["COND_DIM", "DenoiserSpec", "DiffusionPrior"]

COND_DIM = 64


@dataclass(frozen=True)
class DenoiserSpec:
    """The architecture of a diffusion prior.

    Attributes:
        size: Of the network, a name in `apsgeo.nn.SIZES`: about 0.3, 1, 3, 10 or 30 million
            parameters.
        schedule: The noise schedule.
        levels: Of the grid, each of which caches a factorization of the anchor.
        network: The kind of network, one of `apsgeo.nn.NETWORKS`: "unet", or "function-space",
            which can be evaluated at other resolutions (`DiffusionPrior.on`).

    Raises:
        InputError: If there is no such size or network.
    """

    size: Literal["tiny", "small", "medium", "large", "huge"] = "tiny"
    schedule: Schedule = field(default_factory=VPSchedule)
    levels: int = 20
    network: Literal["unet", "function-space"] = "unet"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InputError(f"size={self.size!r}; give one of {', '.join(SIZES)}")
        if self.network not in (known := [each.kind for each in NETWORKS]):
            raise InputError(f"network={self.network!r}; give one of {', '.join(known)}")

    def build(
        self, domain: Domain, channels: int, anchor: GaussianPrior | None, static: Tensor
    ) -> DiffusionPrior:
        """Return an untrained prior, its weights drawn by torch's global generator.

        Args:
            domain: Where the signal lives.
            channels: Of the signal.
            anchor: The Gaussian prior to correct, or None.
            static: Known fields (field, node) of order one, which the network sees.
        """
        network = of_kind(NETWORKS, {"kind": self.network}, "network").sized(
            domain,
            channels if anchor is None else 2 * channels,
            channels,
            self.size,
            cond_dim=COND_DIM,
            static=static,
        )
        return DiffusionPrior(domain, channels, network, self.schedule, anchor, levels=self.levels)

    def to_config(self) -> dict[str, Any]:
        """Return the attributes as a JSON-able dictionary."""
        return {**vars(self), "schedule": self.schedule.to_config()}


class DiffusionPrior(DiffusionDensity):
    r"""A denoising diffusion prior: a network on top of a Gaussian anchor, or a plain one.

    With x_t = alpha x + sigma n, n standard normal, and gamma = alpha^2 / sigma^2,

        denoise(x_t, t) = D_G(x_t / alpha; sigma / alpha) + c_out(t) net(D_G, residual, log gamma)

    where D_G is the anchor's exact posterior mean, residual = (x_t - alpha D_G) / sigma, and c_out
    the anchor's rms posterior standard deviation. A network that starts at zero starts at the
    optimal denoiser of the anchor. Without an anchor the network sees c_in x_t alone, and its skip
    connection is the denoiser of N(0, I): with c_in = (alpha^2 + sigma^2)^(-1/2)

        denoise(x_t, t) = c_in^2 alpha x_t + c_in sigma net(c_in x_t, log gamma),

    the preconditioning of Karras et al. (2022, arXiv 2206.00364, table 1) for data of unit
    variance, which for VP is D = alpha x_t + sigma net(x_t, log gamma).

    The grid of levels and its interpolation are those of `AnchoredDenoiser`, and define the
    denoiser. A ``shrinkage`` in [0, 1] per level, one until training sets it, multiplies the
    correction. It is trained by `apsgeo.priors.diffusion_fit.train_diffusion`.

    **Resolutions.** A noise level is the standard deviation s = sigma / alpha of the noise at each
    node, everywhere and at every resolution. Such noise is white: its mean over a part of the
    domain that has M nodes has the variance s^2 / M. On a grid of N nodes it therefore hides a
    smooth field as much as noise of s sqrt(n / N) does on one of n nodes. A prior that was trained
    on n = ``trained_nodes`` and is evaluated on N (see `on`) has its network told, and its in- and
    outputs scaled by, that equivalent level: gamma N / n within the range of levels. Areas that
    are unequal must be so alike at both resolutions.

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
        trained_nodes: how many nodes the network was trained on; the domain's by default.
    """

    shrinkage: Tensor

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
        trained_nodes: int | None = None,
    ) -> None:
        super().__init__(
            domain, channels, schedule, anchor, levels=levels, residual_std=residual_std
        )
        if network is None:
            inputs = channels if anchor is None else 2 * channels
            network = UNet(domain, inputs, channels, cond_dim=COND_DIM)
        self.network = network
        self.trained_nodes = domain.num_nodes if trained_nodes is None else trained_nodes
        self.embedding = FourierEmbedding(COND_DIM)
        self.register_buffer("shrinkage", torch.ones(levels, dtype=torch.float64))

    def correction(self, x_t: Tensor, mean: Tensor, log_snr: Tensor) -> Tensor:
        """Return what the network adds to the anchor's ``mean``, (batch, channel, node)."""
        parameter = next(self.network.parameters())
        alpha, sigma = self.scales(log_snr, x_t)
        level = self.equivalent_log_snr(log_snr)
        if self.anchor is None:
            alpha_there, sigma_there = self.scales(level, x_t)
            power, x_there = alpha_there**2 + sigma_there**2, alpha_there / alpha * x_t
            inputs, skip = x_there / power.sqrt(), alpha_there / power * x_there - mean
            output_std = self.output_std(level)
        else:
            louder = torch.exp(0.5 * (level - log_snr)).to(x_t)[:, None, None]
            inputs = torch.cat([mean, louder * (x_t - alpha * mean) / sigma], dim=1)
            skip, output_std = torch.zeros_like(mean), self.output_std(log_snr)
        cond = self.embedding(level.to(parameter) / 4.0)
        out = self.network(inputs.to(parameter), cond).to(x_t)
        scale = output_std * (self._hats(level) @ self.shrinkage.cpu())
        return skip + scale.to(x_t)[:, None, None] * out

    def equivalent_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return what log gamma (batch,) per node is to the network, where it was trained."""
        shift = math.log(self.domain.num_nodes / self.trained_nodes)
        if shift == 0.0:
            return log_snr
        return (log_snr + shift).clamp(float(self.log_snr[0]), float(self.log_snr[-1]))

    def on(
        self, domain: Domain, anchor: GaussianPrior | None = None, static: Tensor | None = None
    ) -> DiffusionPrior:
        """Return the trained prior on another resolution of its domain.

        Its network must be a function-space one. What it has not seen it does not add: structure
        that is finer than the nodes on which it was trained, or than its eigenfunctions. Such
        noise it takes away as it has learned to; such signal, too.

        Args:
            domain: another resolution; see `apsgeo.nn.FunctionSpaceNet.on`.
            anchor: if the prior has an anchor, that of the same fields on the new domain.
            static: the known fields (F, N) there, if the network was given some.

        Raises:
            InputError: the network is of another kind, the domain is no other resolution of the
                prior's, or an anchor or known fields are missing or not wanted.
        """
        if not isinstance(self.network, FunctionSpaceNet):
            raise InputError(
                f"a prior whose network is {type(self.network).__name__} is bound to its grid; "
                'fit one with DenoiserSpec(network="function-space").'
            )
        if (anchor is None) != (self.anchor is None):
            raise InputError(
                f"the prior has {'no' if self.anchor is None else 'an'} anchor: "
                f"{'pass none' if self.anchor is None else 'pass one of the same fields'} on "
                f"{domain!r}."
            )
        there = DiffusionPrior(
            domain,
            self.channels,
            self.network.on(domain, static),
            self.schedule,
            anchor,
            levels=self.levels,
            trained_nodes=self.trained_nodes,
        )
        there.shrinkage.copy_(self.shrinkage)
        return there.to(self.shrinkage.device).train(self.training)

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return a JSON-able configuration and the tensors; neither domain nor anchor is in it."""
        network: Any = self.network
        config = {
            "channels": self.channels,
            "levels": self.levels,
            "anchored": self.anchor is not None,
            "schedule": self.schedule.to_config(),
            "network": {"kind": network.kind, **network.config},
            "trained_nodes": self.trained_nodes,
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
        network = {"kind": "unet"} | config["network"]
        network_class = of_kind(NETWORKS, network, "network")
        del network["kind"]
        denoiser = cls(
            domain,
            int(config["channels"]),
            network_class(domain, **network),
            from_config({"kind": "vp"} | config["schedule"]),
            anchor,
            levels=int(config["levels"]),
            residual_std=tensors["residual_std"],
            trained_nodes=config.get("trained_nodes"),
        )
        try:
            denoiser.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelError(
                f"the diffusion prior's tensors do not fit its network: {error}"
            ) from error
        return denoiser.eval()
