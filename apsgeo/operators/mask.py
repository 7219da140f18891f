"""Point measurements at some of the nodes: imputation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError

__all__ = ["Mask"]


@dataclass(frozen=True)
class Mask:
    """Observe some nodes and none of the others, y = x at the observed ones, plus noise.

    A model distilled for `Mask()` serves any mask; the densities say which are trained on.

    Attributes:
        least, most: Range of the observed fraction of the domain's area in training, from
            which it is drawn log-uniformly.
    """

    least: float = 0.005
    most: float = 0.5
    kind: ClassVar[str] = "mask"

    def __post_init__(self) -> None:
        if not 0.0 < self.least <= self.most <= 1.0:
            raise InputError(
                f"Mask(least={self.least}, most={self.most}): give fractions of the area with "
                "0 < least <= most <= 1."
            )

    def apply(self, signal: Tensor, mask: Tensor) -> Tensor:
        """Return A x: the signal where observed, zero elsewhere; of the signal's shape."""
        return torch.where(mask, signal, 0.0)

    def adjoint(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return A^T y, which for point measurements is `apply` itself."""
        return self.apply(values, mask)

    def simulate(self, domain: Domain, generator: torch.Generator) -> Tensor:
        """Draw one random mask (node,) whose density is log-uniform in [least, most]."""
        span = math.log(self.most / self.least)
        density = self.least * math.exp(span * float(torch.rand((), generator=generator)))
        return self.at_density(domain, density, generator)

    @staticmethod
    def at_density(domain: Domain, density: float, generator: torch.Generator) -> Tensor:
        """Draw a mask (node,): each node observed with probability proportional to its area."""
        share = domain.areas / domain.areas.mean()
        drawn = torch.rand(domain.num_nodes, generator=generator, dtype=torch.float64)
        return drawn < density * share

    def to_config(self) -> dict[str, Any]:
        """Return a JSON-able description."""
        return {"kind": self.kind, "least": self.least, "most": self.most}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Mask:
        """Rebuild from `to_config`."""
        return cls(least=config["least"], most=config["most"])
