"""A random field as the other Gaussian priors are: scales, a local field, and what builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.random_field.prior import RandomFieldPrior
from apsgeo.gaussian.random_field.terms import Terms

__all__ = ["RandomField", "RandomFieldScales"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RandomField:
    """What is learned of a random field.

    Attributes:
        domain: Domain of the field.
        terms: The Matern terms and the nugget.
        bumps: Weights (node, bump) by which variance and range follow the place.
        trend: Patterns (node, q) of the mean, each times the standard deviation of its amplitude.
    """

    domain: Domain
    terms: Terms
    bumps: Tensor
    trend: Tensor


@dataclass(frozen=True)
class RandomFieldScales:
    """Stand for the covariance of a `RandomField`, whose free numbers are in the field itself.

    So a `SeasonalPrior` holds, saves and loads it like the others.

    Attributes:
        seasonal_share: Share of the covariance that follows the season: none.
    """

    seasonal_share: float = 0.0
    kind: ClassVar[str] = "random field"
    steps: ClassVar[tuple[float, ...]] = ()

    @classmethod
    def start(cls, domain: Domain) -> RandomFieldScales:
        """Return the scales: nothing is guessed."""
        return cls()

    def encode(self) -> Array:
        """Return the point of no coordinates."""
        return np.zeros(0)

    @classmethod
    def decode(cls, point: Array) -> RandomFieldScales:
        """Undo `encode`."""
        return cls()

    def field(
        self, domain: Domain, fields: Tensor | None = None, *, draft: bool = False
    ) -> RandomField:
        """Refuse: a random field is fitted by `apsgeo.random_field.fit.fit_random_field`.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "a random field is fitted to gappy fields by fit_prior; give hybrid or localised "
            "scales for a history."
        )

    def relearn(self, field: RandomField, fields: Tensor) -> RandomField:
        """Return the same field."""
        return field

    def field_to_tensors(self, field: RandomField) -> dict[str, Tensor]:
        """Return all that was learned."""
        tensors = {f"terms.{name}": each for name, each in field.terms.tensors().items()}
        return tensors | {"bumps": field.bumps, "trend": field.trend}

    def field_from_tensors(self, domain: Domain, tensors: dict[str, Tensor]) -> RandomField:
        """Rebuild the field."""
        names = [name for name in tensors if name.startswith("terms.")]
        terms = Terms(**{name.removeprefix("terms."): tensors[name] for name in names})
        return RandomField(domain, terms, tensors["bumps"], tensors["trend"])

    def build(self, field: RandomField, loadings: Tensor, variance: Tensor) -> RandomFieldPrior:
        """Return the prior."""
        return RandomFieldPrior(field.domain, field.terms, field.bumps, field.trend)
