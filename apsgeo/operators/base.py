"""What every operator offers: a linear map on any domain, and a place in saved files."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.linear import IdentityMap, LinearMap

__all__ = ["HELD_OUT_DENSITIES", "Operator", "RandomMask"]

HELD_OUT_DENSITIES = (0.01, 0.05, 0.3)
"""Observed fractions at which held-out records choose scales, weights and the spread of flows."""


class Operator(ABC):
    """How signals are measured, in the user's units and apart from any domain.

    Subclasses are frozen dataclasses whose fields JSON can hold. A model is distilled for a family
    of operators: a single operator is the family of itself, and `apsgeo.operators.families` has
    larger ones.
    """

    kind: ClassVar[str]

    @abstractmethod
    def on(self, domain: Domain) -> LinearMap:
        """Return A of y = A x + n on a domain, with `apply` (A x) and `adjoint` (A^T y).

        Raises:
            InputError: If the operator cannot be on this domain.
        """

    def simulate(self, domain: Domain, generator: torch.Generator) -> Tensor:
        """Draw which observations are made, (observation,), bool: all, unless overridden."""
        return torch.ones(self.on(domain).num_observations, dtype=torch.bool)

    def at_density(self, domain: Domain, density: float, generator: torch.Generator) -> Tensor:
        """Draw which observations are made, at a density that masks keep to and others ignore."""
        return self.simulate(domain, generator)

    @property
    def held_out_densities(self) -> tuple[float, ...]:
        """Densities at which held-out records choose weights and spread; 1 where all is seen."""
        return (1.0,)

    def draw(self, generator: torch.Generator) -> Operator:
        """Draw one operator of the family, which for a single operator is itself."""
        return self

    def includes(self, operator: Operator) -> bool:
        """Tell whether an operator is of the family."""
        return self == operator

    def check(self, operator: Operator) -> None:
        """Check that an operator is of the family.

        Raises:
            InputError: If it is not.
        """
        if not self.includes(operator):
            raise InputError(
                f"the operator {operator!r} is not of the family {self!r}; give one of it, such as "
                f"{self.typical()[0]!r}."
            )

    def typical(self) -> tuple[Operator, ...]:
        """Return a few operators by which to judge a model of the family."""
        return (self,)

    def features(self, operator: Operator) -> tuple[float, ...]:
        """Return numbers of order one that tell an operator from others of the family."""
        return ()

    def to_config(self) -> dict[str, Any]:
        """Return a JSON-able description, which `apsgeo.operators.from_config` reads."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {"kind": self.kind, **values}


@dataclass(frozen=True)
class RandomMask(Operator):
    """Observe some nodes and none of the others, y = x at the observed ones, plus noise.

    Attributes:
        least, most: Range of the observed fraction of the domain's area in training, from
            which it is drawn log-uniformly.
    """

    least: float = 0.005
    most: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.least <= self.most <= 1.0:
            raise InputError(
                f"{type(self).__name__}(least={self.least}, most={self.most}): give fractions of "
                "the area with 0 < least <= most <= 1."
            )

    def on(self, domain: Domain) -> LinearMap:
        """Return the identity: which nodes were observed is for the measurement to say."""
        return IdentityMap(domain.num_nodes, domain)

    def simulate(self, domain: Domain, generator: torch.Generator) -> Tensor:
        """Draw one random mask (node,) whose density is log-uniform in [least, most]."""
        span = math.log(self.most / self.least)
        density = self.least * math.exp(span * float(torch.rand((), generator=generator)))
        return self.at_density(domain, density, generator)

    @property
    def held_out_densities(self) -> tuple[float, ...]:
        """`HELD_OUT_DENSITIES` if they are in the range, else three of it, spaced alike."""
        if self.least <= min(HELD_OUT_DENSITIES) and max(HELD_OUT_DENSITIES) <= self.most:
            return HELD_OUT_DENSITIES
        return tuple(
            self.least * (self.most / self.least) ** place for place in (1 / 6, 1 / 2, 5 / 6)
        )

    def includes(self, operator: Operator) -> bool:
        """Tell whether an operator is a mask of any kind: all masks measure nodes."""
        return isinstance(operator, RandomMask)

    @abstractmethod
    def at_density(self, domain: Domain, density: float, generator: torch.Generator) -> Tensor:
        """Draw a mask (node,) that observes about a fraction `density` of the area."""
