"""A family of operators on a domain, whose maps are made once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators import LinearMap, Operator

__all__ = ["Family"]


@dataclass
class Family:
    """A family of operators on a domain.

    Attributes:
        operator: The family, or an operator that is its only member.
        domain: Domain of the fields.
    """

    operator: Operator
    domain: Domain
    _maps: dict[Operator, LinearMap] = field(default_factory=dict, init=False, repr=False)

    def on(self, member: Operator | None = None) -> LinearMap:
        """Return the map of a member, by default of the only one; it knows the member's `features`.

        Raises:
            InputError: If it is not of the family, or the family has several and none is named.
        """
        if member is None:
            member = self.operator
        else:
            self.operator.check(member)
        if member not in self._maps:
            found = member.on(self.domain)
            found.features = self.operator.features(member)
            self._maps[member] = found
        return self._maps[member]

    def own(self, linear: LinearMap) -> LinearMap:
        """Return the family's own map for one of a measurement made elsewhere.

        Raises:
            InputError: If the family has several members, and the map does not say which it is.
        """
        if len(linear.features) == self.features:
            return linear
        for member in self.operator.typical():
            if linear.is_identity and self.on(member).is_identity:
                return self.on(member)
        raise InputError(
            f"the measurement's {linear!r} does not say which of {self.operator!r} it is; measure "
            "with posterior.family.on(operator)."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and send without the maps, which may hold functions."""
        return Family, (self.operator, self.domain)

    @property
    def features(self) -> int:
        """Number of features of a member."""
        return len(self.operator.features(self.operator.typical()[0]))
