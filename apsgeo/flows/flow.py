"""The conditional normalizing flow q(x | y): its context is evaluated once a field."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from apsgeo.flows.base import Base
from apsgeo.operators.measurement import Measurement

__all__ = ["ConditionalFlow", "Conditioning"]


@dataclass(frozen=True)
class Conditioning:
    """What the transforms see of a batch of measurements.

    Attributes:
        mean, std: (batch, channel, node) of the base distribution.
        context: (batch, feature, node), made by the context network.
    """

    mean: Tensor
    std: Tensor
    context: Tensor

    def __getitem__(self, index: Tensor | slice) -> Conditioning:
        return replace(
            self, mean=self.mean[index], std=self.std[index], context=self.context[index]
        )


class ConditionalFlow(nn.Module):
    r"""x = mean + std T(c r; context(y)), with r the base's standardized deviation.

    c is one number, `spread`, set after training so that held-out spread matches error.
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
        self.register_buffer("spread", torch.ones(()))

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
        seen = measurement.mask  # back-projected by the adjoint, which leaves values of nodes as is
        back = measurement.operator.adjoint
        mask = back(seen.to(mean))
        innovation = measurement.back_project(
            torch.where(seen, measurement.values - measurement.apply(mean), 0.0)
        )
        noise = back(torch.where(seen, measurement.noise_std.log(), 0.0))
        features = torch.cat([mean, std, innovation, mask, noise, covariates], dim=1)
        return Conditioning(mean, std, self.context(features))

    def push(self, deviation: Tensor, given: Conditioning) -> tuple[Tensor, Tensor]:
        """Map base deviations (member, batch, channel, node) to fields and log |det|."""
        r = self.spread * deviation / given.std
        total = self._log_spread(deviation)
        for transform in self.transforms:
            r, log_det = transform(r, given.context)
            total = total + log_det
        return given.mean + given.std * r, total

    def pull(self, fields: Tensor, given: Conditioning) -> tuple[Tensor, Tensor]:
        """Map fields back to base deviations; also log |det| of `push` there."""
        r = (fields - given.mean) / given.std
        total = self._log_spread(fields)
        for transform in reversed(self.transforms):
            r, log_det = transform.inverse(r, given.context)  # type: ignore[operator]
            total = total + log_det
        return given.std * r / self.spread, total

    def _log_spread(self, fields: Tensor) -> Tensor:
        """Return the log-determinant (member, batch) of the multiplication by `spread`."""
        return fields[0, 0].numel() * self.spread.log().expand(fields.shape[:2])
