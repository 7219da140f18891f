"""Masks of satellites: bands that cross the domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.base import RandomMask

__all__ = ["Swath"]


@dataclass(frozen=True)
class Swath(RandomMask):
    """Observe random bands of one width, as many as cover the share of the area asked for.

    On a sphere a band follows a great circle, as the track of a satellite does; in the plane it
    follows a straight line; on other surfaces it follows a plane through their centre.

    Attributes:
        width_km: The width of a band in km, or in the unit of a domain whose `radius_km` is one.
        least, most: Range of the observed fraction of the domain's area in training, from
            which it is drawn log-uniformly.
    """

    least: float = 0.02
    most: float = 0.5
    width_km: float = 1500.0
    kind: ClassVar[str] = "swath"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.width_km > 0:
            raise InputError(f"Swath(width_km={self.width_km}): give a positive width.")

    def at_density(self, domain: Domain, density: float, generator: torch.Generator) -> Tensor:
        """Draw a mask (node,): bands are added until `density` of the area is covered.

        Each band crosses a node that no earlier one has covered.
        """
        share = domain.areas / domain.areas.sum()
        places = _about_centre(domain)
        half = self.width_km / domain.radius_km / 2
        covered = torch.zeros(domain.num_nodes, dtype=torch.bool)
        while not covered.all() and float(share[covered].sum()) < density:
            left = torch.where(covered, 0.0, share)
            node = int(torch.multinomial(left, 1, generator=generator))
            normal = torch.randn(places.shape[1], generator=generator, dtype=torch.float64)
            through = places[node]
            if len(through) > 2:  # through the centre too: a great circle of a sphere
                normal = normal - (normal @ through) * through / (through @ through).clamp(1e-12)
            normal = normal / normal.norm()
            covered |= ((places - through) @ normal).abs() <= half
        return covered


def _about_centre(domain: Domain) -> Tensor:
    """Return positions about the sphere's centre, or the mean of those that are on none."""
    positions = domain.positions
    if bool(((positions.norm(dim=1) - 1).abs() < 1e-6).all()):
        return positions
    share = domain.areas / domain.areas.sum()
    return positions - (share[:, None] * positions).sum(0)
