"""The conditional normalizing flow q(x | y): its context is evaluated once a field."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apsgeo.flows.base import Base
from apsgeo.operators.mask import HELD_OUT_DENSITIES
from apsgeo.operators.measurement import Measurement

__all__ = ["SHARES", "ConditionalFlow", "Conditioning"]

SHARES = min(HELD_OUT_DENSITIES), max(HELD_OUT_DENSITIES)
"""Least and greatest observed share between which the spread is calibrated."""


@dataclass(frozen=True)
class Conditioning:
    """What the transforms see of a batch of measurements.

    Attributes:
        mean, std: (batch, channel, node) of the base distribution.
        context: (batch, feature, node), made by the context network.
        log_share: (batch,) log of the share of values that are observed.
    """

    mean: Tensor
    std: Tensor
    context: Tensor
    log_share: Tensor

    def __getitem__(self, index: Tensor | slice) -> Conditioning:
        return Conditioning(
            self.mean[index], self.std[index], self.context[index], self.log_share[index]
        )

    def detach(self) -> Conditioning:
        """Return it without gradients."""
        return Conditioning(*(value.detach() for value in vars(self).values()))


class ConditionalFlow(nn.Module):
    r"""x = mean + std T(c r; context(y)), with r the base's standardized deviation.

    log c = `spread[0] + spread[1] * log_share`, linear in the log of the observed share, is set
    after training so that held-out spread matches error; the share is taken to the range `SHARES`.
    `context` is evaluated once a measurement; the transforms T are light and are evaluated
    for all members together.

    Args:
        base: Distribution that the flow starts from.
        context: Network from `inputs` features to context features.
        transforms: Invertible maps in the order of sampling.
    """

    spread: Tensor

    def __init__(
        self,
        base: Base,
        context: nn.Module,
        transforms: list[nn.Module],
    ) -> None:
        super().__init__()
        self.base = base
        self.context = context
        self.transforms = nn.ModuleList(transforms)
        self.register_buffer("spread", torch.zeros(2))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.spread.device

    @staticmethod
    def inputs(channels: int, covariates: int) -> int:
        """Number of features that `condition` gives to the context network."""
        return 5 * channels + covariates

    def condition(
        self, measurement: Measurement, mean: Tensor, std: Tensor, covariates: Tensor
    ) -> Conditioning:
        """Evaluate the context network once for each measurement.

        Args:
            measurement: The batch of measurements.
            mean: Of the base posterior, (batch, channel, node).
            std: Its marginal standard deviation, likewise.
            covariates: (batch, feature, node) known fields such as the seasonal spread.
        """
        log_share = measurement.mask.flatten(1).double().mean(1).clamp(*SHARES).log().to(mean)
        seen = measurement.mask  # back-projected by the adjoint, which leaves values of nodes as is
        back = measurement.operator.adjoint
        mask = back(seen.to(mean))
        innovation = measurement.back_project(
            torch.where(seen, measurement.values - measurement.apply(mean), 0.0)
        )
        noise = back(torch.where(seen, measurement.noise_std.log(), 0.0))
        features = torch.cat([mean, std, innovation, mask, noise, covariates], dim=1)
        return Conditioning(mean, std, self.context(features), log_share)

    def push(self, deviation: Tensor, given: Conditioning) -> tuple[Tensor, Tensor]:
        """Map base deviations (member, batch, channel, node) to fields and log |det|."""
        log_spread, total = self._spread(deviation, given)
        r = log_spread.exp() * deviation / given.std
        for transform in self.transforms:
            r, log_det = transform(r, given.context)
            total = total + log_det
        return given.mean + given.std * r, total

    def pull(self, fields: Tensor, given: Conditioning) -> tuple[Tensor, Tensor]:
        """Map fields back to base deviations; also log |det| of `push` there."""
        r = (fields - given.mean) / given.std
        log_spread, total = self._spread(fields, given)
        for transform in reversed(self.transforms):
            r, log_det = transform.inverse(r, given.context)  # type: ignore[operator]
            total = total + log_det
        return given.std * r * (-log_spread).exp(), total

    def _spread(self, fields: Tensor, given: Conditioning) -> tuple[Tensor, Tensor]:
        """Return log c (batch, 1, 1), and its log-determinant (member, batch)."""
        log_spread = self.spread[0] + self.spread[1] * given.log_share
        total = fields[0, 0].numel() * log_spread.expand(fields.shape[:2])
        return log_spread[:, None, None], total
