"""Families of measurements, for which one model is distilled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.base import Operator
from apsgeo.operators.blur import GaussianBlur
from apsgeo.operators.combine import Several
from apsgeo.operators.linear import LinearMap

__all__ = ["GaussianBlurs", "OneOf"]


class _Family(Operator):
    def on(self, domain: Domain) -> LinearMap:
        """Refuse: a family is not one map.

        Raises:
            InputError: If it is called at all; the message tells what to do.
        """
        raise InputError(
            f"{self!r} is a family of operators; say which of them measured, such as "
            f"operator={self.typical()[0]!r}."
        )


@dataclass(frozen=True)
class OneOf(Several, _Family):
    """Measure by one operator of several, each as likely as any other in training.

    The flow is told which one it is.

    Attributes:
        operators: Operators, or families of them: ``OneOf((Mask(), Downsample(2),
            Downsample(4)))``.
    """

    kind: ClassVar[str] = "one-of"

    def draw(self, generator: torch.Generator) -> Operator:
        """Draw one of the operators."""
        which = int(torch.randint(len(self.operators), (), generator=generator))
        return self.operators[which].draw(generator)

    def includes(self, operator: Operator) -> bool:
        """Tell whether it is one of them, or in one of them."""
        return any(each.includes(operator) for each in self.operators)

    def typical(self) -> tuple[Operator, ...]:
        """Return the typical operators of each family."""
        return tuple(member for each in self.operators for member in each.typical())

    def features(self, operator: Operator) -> tuple[float, ...]:
        """Return, for each of the operators, whether it is the one that measured, and features.

        A 1 stands for the first that includes the operator, followed by its features; a 0 for
        each other one, followed by as many zeros as it has features.

        Raises:
            InputError: If it is none of them.
        """
        self.check(operator)
        found = next(i for i, each in enumerate(self.operators) if each.includes(operator))
        told: list[float] = []
        for index, each in enumerate(self.operators):
            here = index == found
            own = each.features(operator if here else each.typical()[0])
            told += [float(here), *(value * here for value in own)]
        return tuple(told)


@dataclass(frozen=True)
class GaussianBlurs(_Family):
    """Measure by a `GaussianBlur` whose length is in a range, drawn log-uniformly in training.

    Attributes:
        least_km, most_km: Ends of the range of `GaussianBlur.length_km`.
    """

    least_km: float
    most_km: float
    kind: ClassVar[str] = "gaussian-blurs"

    def __post_init__(self) -> None:
        if not 0.0 < self.least_km < self.most_km < math.inf:
            raise InputError(
                f"GaussianBlurs({self.least_km}, {self.most_km}): give two positive lengths, the "
                "smaller first."
            )

    def draw(self, generator: torch.Generator) -> GaussianBlur:
        """Draw a blur."""
        place = float(torch.rand((), generator=generator))
        return GaussianBlur(self.least_km * (self.most_km / self.least_km) ** place)

    def includes(self, operator: Operator) -> bool:
        """Tell whether it is a blur in the range."""
        if not isinstance(operator, GaussianBlur):
            return False
        return self.least_km <= operator.length_km <= self.most_km

    def typical(self) -> tuple[GaussianBlur, ...]:
        """Return the ends of the range."""
        return GaussianBlur(self.least_km), GaussianBlur(self.most_km)

    def features(self, operator: Operator) -> tuple[float, ...]:
        """Return the place of the length in the range, on a logarithmic scale from -1 to 1.

        Raises:
            InputError: If it is not in the range.
        """
        self.check(operator)
        assert isinstance(operator, GaussianBlur)
        place = math.log(operator.length_km / self.least_km) / math.log(
            self.most_km / self.least_km
        )
        return (2.0 * place - 1.0,)
