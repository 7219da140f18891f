"""A diffusion prior in function space, which serves every resolution of its domain."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.nn.function_space import FunctionSpaceNet

__all__ = ["FunctionSpacePrior"]


class FunctionSpacePrior(DiffusionPrior):
    r"""A diffusion prior that was trained at one resolution and is evaluated at others (`on`).

    Its network (`apsgeo.nn.function_space.FunctionSpaceNet`) gives smooth functions of the place.
    Without an anchor these are the smooth part m of the signal and, at each node, the logarithm h
    of the variance of the signal about m. With x = x_t / alpha and gamma = alpha^2 / sigma^2,

        predict(x_t, t) = m + g (x - m),    g = 1 / (1 + exp(-h) / gamma),

    the posterior mean of a signal m + r with independent r of variance exp(h) at each node. Zeros
    of the network give the denoiser of N(0, I), as in the plain form of `DiffusionPrior`. With an
    anchor a smooth function is added to its exact denoiser, predict = D_G + c_out net: what is
    finer than the eigenfunctions is left to the anchor.

    **Noise.** A level of noise is its standard deviation s = sigma / alpha at each node, at every
    resolution. It is white: its mean over a part of the domain with M nodes has variance s^2 / M.
    On N nodes it hides a smooth field as much as noise of s sqrt(n / N) does on n nodes. Therefore
    a network that was trained on n = ``trained_nodes`` sees the level gamma N / n, within the range
    of levels, and inputs that are scaled accordingly; g, which is about a single node, takes gamma
    itself. The areas of cells must be in the same proportions at both resolutions.

    Args:
        domain, channels, network, schedule, anchor, levels, residual_std: Arguments of
            `DiffusionPrior`; without an anchor the network gives twice the channels.
        trained_nodes: Number of nodes that the network was trained on; the domain's by default.
    """

    kind: ClassVar[str] = "function-space"
    network_class: ClassVar[type[FunctionSpaceNet]] = FunctionSpaceNet
    network: FunctionSpaceNet

    def __init__(
        self,
        domain: Domain,
        channels: int,
        network: FunctionSpaceNet | None = None,
        *arguments: Any,
        trained_nodes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(domain, channels, network, *arguments, **options)
        self.trained_nodes = domain.num_nodes if trained_nodes is None else trained_nodes

    @staticmethod
    def network_channels(channels: int, anchor: GaussianPrior | None) -> tuple[int, int]:
        """Return the numbers of channels that the network takes and gives."""
        return (channels, 2 * channels) if anchor is None else (2 * channels, channels)

    def equivalent_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the log gamma (batch,) of `trained_nodes` that is as informative as `log_snr`."""
        shift = math.log(self.domain.num_nodes / self.trained_nodes)
        return (log_snr + shift).clamp(float(self.log_snr[0]), float(self.log_snr[-1]))

    def correction(self, x_t: Tensor, mean: Tensor, log_snr: Tensor) -> Tensor:
        """Return the correction (batch, channel, node) of the anchor's ``mean``."""
        parameter = next(self.network.parameters())
        level = self.equivalent_log_snr(log_snr)
        clean = x_t / self.alpha_sigma(log_snr, x_t)[0]
        noise_std = torch.exp(-0.5 * level).to(x_t)[:, None, None]
        if self.anchor is None:
            inputs = clean / (1.0 + noise_std**2).sqrt()
        else:
            inputs = torch.cat([mean, (clean - mean) / noise_std], dim=1)
        cond = self.embedding(level.to(parameter) / 4.0)
        out = self.network(inputs.to(parameter), cond).to(x_t)
        if self.anchor is None:
            smooth, log_var = out.chunk(2, dim=1)
            own = torch.sigmoid(log_var + log_snr.to(x_t)[:, None, None])
            change = smooth + own * (clean - smooth) - mean
        else:
            change = self.output_std(log_snr).to(x_t)[:, None, None] * out
        shrinkage = self._hats(level) @ self.shrinkage.cpu()
        return shrinkage.to(x_t)[:, None, None] * change

    def with_gain(self) -> None:
        """Return None: gains in bands of one resolution do not serve another."""
        return None

    def on(
        self, domain: Domain, anchor: GaussianPrior | None = None, static: Tensor | None = None
    ) -> FunctionSpacePrior:
        """Return the trained prior on another resolution of its domain.

        A finer resolution teaches it nothing. Structure that is finer than the nodes it was trained
        on, or than the eigenfunctions, is left to the anchor; without one it is taken for white.

        Args:
            domain: Another resolution; see `apsgeo.nn.function_space.FunctionSpaceNet.on`.
            anchor: Anchor on the new domain, fitted to the same fields, if the prior has an anchor.
            static: Static fields (field, node) there, if the network has some.

        Raises:
            InputError: If the domain is not another resolution of the prior's, or an anchor or
                static fields are missing or not wanted.
        """
        if (anchor is None) != (self.anchor is None):
            raise InputError(
                f"the prior has {'no' if self.anchor is None else 'an'} anchor: "
                f"{'pass none' if self.anchor is None else 'pass one of the same fields'} on "
                f"{domain!r}."
            )
        there = type(self)(
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
        config, tensors = super().to_state()
        return config | {"trained_nodes": self.trained_nodes}, tensors

    @staticmethod
    def _more_of(config: dict[str, Any]) -> dict[str, Any]:
        return {"trained_nodes": int(config["trained_nodes"])}
