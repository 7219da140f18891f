"""The symmetries of a domain: ways to renumber its nodes that leave its geometry as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.errors import InputError

__all__ = ["Symmetries", "Symmetry"]

_SAME = 1e-6  # relative, of areas and conductances


@dataclass(frozen=True)
class Symmetry:
    """A permutation of the nodes that is the identity when it is applied ``order`` times.

    Attributes:
        permutation: Nodes (N,), int64; a signal becomes ``signal[..., permutation]``.
        order: Number of times after which every node is back.
    """

    permutation: Tensor
    order: int

    def power(self, times: int) -> Tensor:
        """Return the permutation (N,) that applies this one so many times."""
        result, base = torch.arange(len(self.permutation)), self.permutation
        while times:
            if times % 2:
                result = result[base]
            base, times = base[base], times // 2
        return result

    def keeps(self, areas: NDArray[np.float64], stiffness: scipy.sparse.csc_array) -> bool:
        """Tell whether a domain's areas (N,) and stiffness (N, N) are the same after it."""
        places = self.permutation.numpy()
        if not np.allclose(areas[places], areas, rtol=_SAME, atol=_SAME * areas.mean()):
            return False
        moved = scipy.sparse.csr_array(stiffness)[places][:, places]
        return bool(abs(moved - stiffness).max() <= _SAME * abs(stiffness).max())


class Symmetries(Mapping[str, Symmetry]):
    """Symmetries of a domain by name, from which random ones are composed.

    `Domain.symmetries` has all that a domain knows of itself. Whether fields have them too is for
    you to say: a photograph may be mirrored left to right, but not upside down.

    Example:
        >>> from apsgeo import ImageDomain
        >>> ImageDomain(8, 8).symmetries
        Symmetries(left-right, up-down, transpose)
        >>> ImageDomain(8, 6).symmetries.only("left-right")
        Symmetries(left-right)
    """

    def __init__(self, symmetries: Mapping[str, Symmetry]) -> None:
        self._symmetries = dict(symmetries)

    def __getitem__(self, name: str) -> Symmetry:
        return self._symmetries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._symmetries)

    def __len__(self) -> int:
        return len(self._symmetries)

    def __repr__(self) -> str:
        return f"Symmetries({', '.join(self)})"

    def only(self, *names: str) -> Symmetries:
        """Return the symmetries that have these names.

        Raises:
            InputError: If the domain has no symmetry of a name.
        """
        if absent := [name for name in names if name not in self]:
            raise InputError(
                f"no symmetry {', '.join(map(repr, absent))}; the domain has: "
                f"{', '.join(self) or 'none'}"
            )
        return Symmetries({name: self[name] for name in names})

    def draw(self, generator: torch.Generator | None = None) -> Tensor | None:
        """Return a random permutation (N,), the product of random powers; None if there are none.

        Args:
            generator: Generator on the CPU; torch's global one by default.
        """
        result = None
        for each in self.values():
            times = int(torch.randint(each.order, (), generator=generator))
            power = each.power(times)
            result = power if result is None else result[power]
        return result
