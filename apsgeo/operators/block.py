"""Masks with whole regions missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.base import RandomMask

__all__ = ["Block"]


@dataclass(frozen=True)
class Block(RandomMask):
    """Observe all but some caps about random nodes, each as wide as the others.

    Attributes:
        count: Number of caps, which may overlap.
        least, most: Range of the observed fraction of the domain's area in training, from
            which it is drawn log-uniformly.
    """

    least: float = 0.5
    most: float = 0.98
    count: int = 1
    kind: ClassVar[str] = "block"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise InputError(f"Block(count={self.count}): hide one cap or more.")

    def at_density(self, domain: Domain, density: float, generator: torch.Generator) -> Tensor:
        """Draw a mask (node,): the nearest nodes to the caps' middles are hidden.

        Distances are straight. Nodes are hidden until at most `density` of the area is observed:
        less than that by no more than the area of the last node hidden.
        """
        share = domain.areas / domain.areas.sum()
        middles = torch.multinomial(share, min(self.count, len(share)), generator=generator)
        away = torch.cdist(domain.positions, domain.positions[middles]).min(1).values
        order = away.argsort(stable=True)
        before = share[order].cumsum(0) - share[order]
        observed = torch.ones(domain.num_nodes, dtype=torch.bool)
        observed[order[before < 1.0 - density]] = False
        return observed
