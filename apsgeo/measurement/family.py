"""A family of operators on a domain, whose maps are made once."""

from __future__ import annotations

from dataclasses import dataclass, field

from apsgeo.domains.base import Domain
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

    @property
    def features(self) -> int:
        """Number of features of a member."""
        return len(self.operator.features(self.operator.typical()[0]))
