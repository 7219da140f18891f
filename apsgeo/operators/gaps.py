"""Masks as records have them: points, hidden regions, swaths, and points along swaths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.operators.base import RandomMask
from apsgeo.operators.block import Block
from apsgeo.operators.mask import Mask
from apsgeo.operators.swath import Swath

__all__ = ["Gaps"]


@dataclass(frozen=True)
class Gaps(RandomMask):
    """Observe nodes in one of several patterns, drawn anew each time.

    Half of the masks are of single nodes (`Mask`); of the others a third each hides one region
    (`Block`), sees bands (`Swath`), or sees single nodes within bands, as ships do along their
    routes. A model that was distilled for `Gaps()` is told nothing about the pattern: it sees the
    mask.

    Attributes:
        least, most: Range of the observed fraction of the domain's area in training, from
            which it is drawn log-uniformly.
        width_km: The width of a band in km, or in the unit of a domain whose `radius_km` is one.
    """

    least: float = 0.005
    most: float = 0.9
    width_km: float = 1500.0
    kind: ClassVar[str] = "gaps"

    def at_density(self, domain: Domain, density: float, generator: torch.Generator) -> Tensor:
        """Draw a mask (node,) that observes about a fraction `density` of the area."""
        swath = Swath(width_km=self.width_km)
        pattern = int(torch.randint(6, (), generator=generator))
        if pattern < 3:
            return Mask.at_density(domain, density, generator)
        if pattern == 3:
            return Block().at_density(domain, density, generator)
        if pattern == 4:
            return swath.at_density(domain, density, generator)
        within = density**0.5  # the bands' share of the area, and the share that they see of it
        bands = swath.at_density(domain, within, generator)
        return bands & Mask.at_density(domain, within, generator)
