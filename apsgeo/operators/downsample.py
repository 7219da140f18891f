"""Averages over the cells of a coarser domain: super-resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
import torch

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.base import Operator
from apsgeo.operators.linear import LinearMap, SparseMap

__all__ = ["Downsample"]


@dataclass(frozen=True)
class Downsample(Operator):
    """Observe the area-weighted mean over each cell of a coarser domain.

    With a factor of 2 that is `domain.coarse()`, with 4 the coarse domain of this one.

    Attributes:
        factor: Factor by which the spacing grows, 2 or 4; each doubling leaves about a fourth of
            the nodes.
    """

    factor: int = 2
    kind: ClassVar[str] = "downsample"

    def __post_init__(self) -> None:
        if self.factor not in (2, 4):
            raise InputError(f"Downsample(factor={self.factor}): choose 2 or 4.")

    def on(self, domain: Domain) -> LinearMap:
        """Return the mean over coarse cells, whose codomain is the coarse domain.

        Raises:
            InputError: If the domain cannot be coarsened so often.
        """
        matrix = sp.eye_array(domain.num_nodes, format="csr")
        for _ in range(self.factor // 2):
            matrix, domain = (_averages(domain) @ matrix).tocsr(), domain.coarse()
        return SparseMap(matrix, domain)


def _averages(domain: Domain) -> sp.csr_array:
    """Return the means by area (coarse node, node); rows sum to one in float64."""
    coarse = domain.coarse()
    numbers = torch.arange(coarse.num_nodes, dtype=torch.float32)
    parent = domain.unpool()(numbers[None, None])[0, 0].long().numpy()
    areas = domain.areas.numpy()
    total = np.bincount(parent, weights=areas, minlength=coarse.num_nodes)
    entries = (areas / total[parent], (parent, np.arange(domain.num_nodes)))
    return sp.coo_array(entries, shape=(coarse.num_nodes, domain.num_nodes)).tocsr()
