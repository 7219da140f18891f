"""The covariance of a random field: Matern terms whose size and range follow the place."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from apsgeo.gaussian.random_field.correlation import matern

__all__ = ["Terms"]

_SMOOTHNESS = (0.15, 4.0)


@dataclass(frozen=True, eq=False)
class Terms:
    r"""A sum of Matern terms and a nugget, by its free numbers.

    A term has the covariance s_i s_j (r_i r_j / q_ij)^{d/2} M(|A (x_i - x_j)| / sqrt(q_ij)) with
    q_ij = (r_i^2 + r_j^2) / 2, standard deviations s_i and ranges r_i of the nodes, and a stretch
    A = exp(S) of space that keeps volumes. It is valid for all of these (Paciorek & Schervish 2006,
    https://doi.org/10.1002/env.785). Log s and log r are a constant and a sum of bumps.

    Attributes:
        log_std: Log of the standard deviation, (term,).
        log_range: Log of the range in km, (term,).
        log_smoothness: Log of the smoothness nu, (term,).
        stretch: Matrix S (term, d, d), of which the symmetric part without its trace counts.
        log_nugget: Log of the standard deviation of the nugget, ().
        local_std: Weights (term, bump) of the log standard deviation.
        local_range: Weights (term, bump) of the log range.
    """

    log_std: Tensor
    log_range: Tensor
    log_smoothness: Tensor
    stretch: Tensor
    log_nugget: Tensor
    local_std: Tensor
    local_range: Tensor

    @classmethod
    def start(cls, terms: int, dims: int, bumps: int, extent: float, spacing: float) -> Terms:
        """Return a guess: ranges between the spacing of observations and the domain's extent."""
        ends = math.log(0.5 * extent), math.log(min(4.0 * spacing, 0.1 * extent))
        middle = torch.tensor([sum(ends) / 2])
        return cls(
            log_std=torch.full((terms,), 0.5 * math.log(0.9 / terms)),
            log_range=middle if terms == 1 else torch.linspace(*ends, terms),
            log_smoothness=torch.log(torch.tensor([0.7] + [1.0] * (terms - 1))),
            stretch=torch.zeros(terms, dims, dims),
            log_nugget=torch.tensor(math.log(0.1)),
            local_std=torch.zeros(terms, bumps),
            local_range=torch.zeros(terms, bumps),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the free numbers by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def smoothness(self) -> Tensor:
        """Smoothness nu (term,)."""
        return self.log_smoothness.exp().clamp(*_SMOOTHNESS)

    @cached_property
    def transform(self) -> Tensor:
        """The stretch A (term, d, d) of space."""
        symmetric = 0.5 * (self.stretch + self.stretch.mT)
        trace = symmetric.diagonal(dim1=1, dim2=2).mean(1)
        eye = torch.eye(symmetric.shape[1], device=symmetric.device)
        return torch.matrix_exp(symmetric - trace[:, None, None] * eye)

    def sizes(self, bumps: Tensor) -> tuple[Tensor, Tensor]:
        """Return log standard deviation and log range (node, term) at nodes (node, bump)."""
        return (
            self.log_std + bumps @ self.local_std.T,
            self.log_range + bumps @ self.local_range.T,
        )

    def blocks(self, place: Tensor, log_std: Tensor, log_range: Tensor, leading: int) -> Tensor:
        """Return covariance blocks (block, i, leading) without the nugget.

        Args:
            place: Coordinates (block, i, d) in km.
            log_std: Log standard deviation (block, i, term).
            log_range: Log range (block, i, term).
            leading: Number of columns, the first of the rows.
        """
        dims = place.shape[2]
        place = place - place.mean(1, keepdim=True)
        total = place.new_zeros(())
        for term, smoothness in enumerate(self.smoothness):
            std, size = log_std[..., term].exp(), (2.0 * log_range[..., term]).exp()
            pair = 0.5 * (size[:, :, None] + size[:, None, :leading])
            ratio = _squares(place @ self.transform[term].T, leading) / pair
            amplitude = std * size.pow(0.25 * dims)
            factor = amplitude[:, :, None] * amplitude[:, None, :leading]
            shape = pair.pow(-0.5 * dims) if dims != 2 else pair.reciprocal()
            # The root of zero has no slope; a distance of 1e-5 ranges counts as none.
            correlation = matern(ratio.clamp(min=1e-10).sqrt(), smoothness)
            total = total + factor * shape * correlation
        return total


def _squares(place: Tensor, leading: int) -> Tensor:
    total = place.new_zeros(())
    for axis in range(place.shape[2]):
        one = place[:, :, axis]
        total = total + (one[:, :, None] - one[:, None, :leading]).square()
    return total
