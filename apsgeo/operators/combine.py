"""Operators one after another, and side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.base import Operator
from apsgeo.operators.linear import ComposedMap, LinearMap, StackedMap

__all__ = ["Compose", "Several", "Stack"]


@dataclass(frozen=True)
class Several(Operator):
    """An operator that is made of others."""

    operators: tuple[Operator, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "operators", tuple(self.operators))
        if not self.operators:
            raise InputError(f"{type(self).__name__}: give one operator or more.")

    def to_config(self) -> dict[str, Any]:
        """Return the descriptions of all of them."""
        return {"kind": self.kind, "operators": [each.to_config() for each in self.operators]}


@dataclass(frozen=True)
class Compose(Several):
    """Measure by one operator after another.

    Attributes:
        operators: Operators in the order in which they are applied: `Compose((GaussianBlur(300.0),
            Downsample(2)))` blurs, then averages.
    """

    kind: ClassVar[str] = "compose"

    def _chain(self, domain: Domain) -> tuple[list[LinearMap], Domain]:
        """Return the maps, and the domain that the last one is on."""
        maps: list[LinearMap] = []
        here: Domain | None = domain
        for number, operator in enumerate(self.operators):
            if here is None:
                raise InputError(
                    f"Compose: {self.operators[number - 1]!r} yields no signal on a domain; only "
                    "the last operator may be such."
                )
            domain = here
            maps.append(operator.on(domain))
            here = maps[-1].codomain
        return maps, domain

    def on(self, domain: Domain) -> LinearMap:
        """Return the product of their maps.

        Raises:
            InputError: If one before the last yields no signal on a domain.
        """
        maps, _ = self._chain(domain)
        needed = [part for part in maps if not part.is_identity]
        return ComposedMap(needed) if len(needed) > 1 else (needed or maps)[0]

    def simulate(self, domain: Domain, generator: torch.Generator) -> Tensor:
        """Draw which observations the last operator makes, (observation,)."""
        return self.operators[-1].simulate(self._chain(domain)[1], generator)


@dataclass(frozen=True)
class Stack(Several):
    """Measure the same signal by several instruments; their noise may differ.

    `StackedMap.join` puts their values, and their noise, together.

    Attributes:
        operators: Operators, one for each instrument.
    """

    kind: ClassVar[str] = "stack"

    def on(self, domain: Domain) -> StackedMap:
        """Return their maps, one above another."""
        return StackedMap([operator.on(domain) for operator in self.operators])

    def simulate(self, domain: Domain, generator: torch.Generator) -> Tensor:
        """Draw which observations each makes, (observation,)."""
        return torch.cat([each.simulate(domain, generator) for each in self.operators])
