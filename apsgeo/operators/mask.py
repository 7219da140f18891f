"""Point measurements at some of the nodes: imputation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.operators.base import RandomMask

__all__ = ["Mask"]


@dataclass(frozen=True)
class Mask(RandomMask):
    """Observe nodes here and there: each on its own, with a probability in proportion to its area.

    A model distilled for `Mask()` serves any mask; the densities say which are trained on.

    Attributes:
        least, most: Range of the observed fraction of the domain's area in training, from
            which it is drawn log-uniformly.
    """

    kind: ClassVar[str] = "mask"

    @staticmethod
    def at_density(domain: Domain, density: float, generator: torch.Generator) -> Tensor:
        """Draw a mask (node,): each node observed with probability proportional to its area."""
        share = domain.areas / domain.areas.mean()
        drawn = torch.rand(domain.num_nodes, generator=generator, dtype=torch.float64)
        return drawn < density * share
