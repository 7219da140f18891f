"""The smooth part of a signal: an instrument of limited resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.base import Operator
from apsgeo.operators.linear import FunctionMap, LinearMap

__all__ = ["SpectralTruncation"]


@dataclass(frozen=True)
class SpectralTruncation(Operator):
    """Observe at every node the part of a signal in the span of the smoothest eigenfunctions.

    That is V V^T M x, with the eigenfunctions V of `domain.eigenbasis(k)`, which are orthonormal
    under the areas M: a projection that is self-adjoint under the areas.

    Attributes:
        k: Number of eigenfunctions, 1 or more.
    """

    k: int
    kind: ClassVar[str] = "spectral-truncation"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"SpectralTruncation(k={self.k}): keep one eigenfunction or more.")

    def on(self, domain: Domain) -> LinearMap:
        """Return the projection, after the eigenbasis is computed.

        Raises:
            InputError: If the domain has no k eigenfunctions.
        """
        basis = domain.eigenbasis(self.k)[1].numpy()
        weighted = domain.areas.numpy()[:, None] * basis

        def there(signal: NDArray[np.float64]) -> NDArray[np.float64]:
            return basis @ (weighted.T @ signal)

        def back(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return weighted @ (basis.T @ values)

        return FunctionMap(there, back, domain.num_nodes, domain.num_nodes, domain)
