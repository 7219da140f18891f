"""What an instrument returned: values, where they are, and how noisy they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from apsgeo.errors import InputError

__all__ = ["Measurement"]


@dataclass(frozen=True)
class Measurement:
    """Values y = A x + n at the nodes where `mask` is true.

    Attributes:
        values: (batch, channel, node); whatever stands under the mask is replaced by zero.
        mask: (batch, channel, node), true where observed.
        noise_std: (batch, channel, node) standard deviation of n, positive, in the units of
            the values; replaced by one where nothing is observed.
    """

    values: Tensor
    mask: Tensor
    noise_std: Tensor

    def __post_init__(self) -> None:
        if self.values.shape != self.mask.shape or self.values.ndim != 3:
            raise InputError(
                f"values {tuple(self.values.shape)} and mask {tuple(self.mask.shape)} must both "
                "be (batch, channel, node)."
            )
        noise = torch.as_tensor(self.noise_std, dtype=self.values.dtype, device=self.values.device)
        noise = noise.broadcast_to(self.values.shape)
        if not bool((torch.isfinite(noise) & (noise > 0))[self.mask].all()):
            raise InputError(
                "noise_std must be finite and above zero wherever a value is observed."
            )
        # `where` rather than a product: NaN times zero is NaN.
        object.__setattr__(self, "values", torch.where(self.mask, self.values, 0.0))
        object.__setattr__(self, "noise_std", torch.where(self.mask, noise, 1.0))
        if not bool(torch.isfinite(self.values).all()):
            raise InputError("observed values must be finite; mark missing ones in the mask.")

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device) -> Measurement:
        """Return the measurement on a device."""
        return Measurement(self.values.to(device), self.mask.to(device), self.noise_std.to(device))

    def log_likelihood(self, signal: Tensor) -> Tensor:
        """Return log N(y; A x, R) for signals (batch, channel, node), as (batch,)."""
        standardized = (self.values - signal) / self.noise_std
        each = -0.5 * (standardized**2 + math.log(2 * math.pi)) - self.noise_std.log()
        return torch.where(self.mask, each, 0.0).flatten(1).sum(1)
