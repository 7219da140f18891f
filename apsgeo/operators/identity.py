"""Every node measured: denoising."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from apsgeo.domains.base import Domain
from apsgeo.operators.base import Operator
from apsgeo.operators.linear import IdentityMap, LinearMap

__all__ = ["Identity"]


@dataclass(frozen=True)
class Identity(Operator):
    """Observe every node: y = x + n."""

    kind: ClassVar[str] = "identity"

    def on(self, domain: Domain) -> LinearMap:
        """Return the identity."""
        return IdentityMap(domain.num_nodes, domain)
