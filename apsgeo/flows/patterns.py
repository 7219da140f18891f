"""Maps of the coefficients of large-scale patterns, each given others and a context.

The coefficients of r are c = E^T w r, for patterns E that are orthonormal under the weights w. The
part of r that no pattern describes stays as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from apsgeo.flows.elementwise import AFFINE, Elementwise
from apsgeo.nn.layers import zero

__all__ = ["GlobalAutoregressive", "GlobalCoupling", "GlobalMap"]

_REDUCED = 4  # features that the context is reduced to before its products with the patterns


class GlobalMap(nn.Module, ABC):
    """An invertible map of the coefficients; subclasses say which decide about which.

    Args:
        basis: Patterns (channel, node, count).
        weights: Weights (node,) under which the patterns are orthonormal.
        context: Number of features of the context.
        parity: True to begin with the even (coupling) or lowest (autoregressive) coefficients.
        width: Width of the networks.
        elementwise: Family of maps of single numbers.
    """

    basis: Tensor
    weights: Tensor

    def __init__(
        self,
        basis: Tensor,
        weights: Tensor,
        context: int,
        *,
        parity: bool,
        width: int = 64,
        elementwise: Elementwise = AFFINE,
    ) -> None:
        super().__init__()
        self.count, self.parity, self.elementwise = basis.shape[-1], parity, elementwise
        self.register_buffer("basis", basis.float(), persistent=False)
        self.register_buffer("weights", weights.float(), persistent=False)
        self.reduce = nn.Linear(context, _REDUCED)
        self.net = self._network(_REDUCED * self.count, width)

    @abstractmethod
    def _network(self, context: int, width: int) -> nn.Module:
        """Return a network of the coefficients and `context` numbers, zero at first."""

    @abstractmethod
    def forward(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return r' and the log-determinant."""

    @abstractmethod
    def inverse(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the r that forward maps to r', and the log-determinant of forward."""

    def _project(self, signal: Tensor) -> Tensor:
        return torch.einsum("...cn,cnk,n->...k", signal, self.basis, self.weights)

    def _raw(self, coefficients: Tensor, context: Tensor) -> Tensor:
        """Return the parameters (member, batch, coefficient, parameter) of the maps."""
        reduced = self.reduce(context.transpose(1, 2)).transpose(1, 2)
        patterns = self.basis.mean(0)
        seen = torch.einsum("bfn,nk,n->bfk", reduced, patterns, self.weights).flatten(1)
        inputs = torch.cat([coefficients, seen.expand(len(coefficients), -1, -1)], -1)
        return self.net(inputs).unflatten(-1, (self.elementwise.count, -1)).movedim(-2, -1)

    def _moved(self, r: Tensor, change: Tensor) -> Tensor:
        return r + torch.einsum("...k,cnk->...cn", change, self.basis)


class GlobalCoupling(GlobalMap):
    """A map of every other coefficient by an MLP that sees the rest (RealNVP).

    Dinh et al. 2017, arXiv 1605.08803.
    """

    keep: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        first = torch.arange(self.count) % 2 == 0
        self.register_buffer("keep", first == self.parity, persistent=False)

    def _network(self, context: int, width: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self.count + context, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            zero(nn.Linear(width, self.elementwise.count * self.count)),
        )

    def _change(self, r: Tensor, c: Tensor, mapped: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        moved, log_slope = mapped
        change = torch.where(self.keep, 0.0, moved - c)
        return self._moved(r, change), (log_slope * ~self.keep).sum(-1)

    def forward(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return r' and the log-determinant."""
        c = self._project(r)
        raw = self._raw(c * self.keep, context)
        return self._change(r, c, self.elementwise.forward(c, raw))

    def inverse(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the r that forward maps to r', and the log-determinant of forward."""
        c = self._project(r)
        raw = self._raw(c * self.keep, context)
        return self._change(r, c, self.elementwise.inverse(c, raw))


class GlobalAutoregressive(GlobalMap):
    """A map of each coefficient by a masked MLP that sees those before it.

    This is the inverse autoregressive flow of Kingma et al. (2016, arXiv 1606.04934), with the
    masks of MADE (Germain et al. 2015, arXiv 1502.03509). Every coefficient may depend on all
    before it. A draw takes one evaluation, as with couplings; the density of a field takes as many
    evaluations as there are coefficients.
    """

    def _network(self, context: int, width: int) -> nn.Module:
        from zuko.nn import MaskedMLP

        place = torch.arange(self.count)
        before = place[None, :] < place[:, None]
        if not self.parity:
            before = before.T
        sees = torch.cat([before, torch.ones(self.count, context, dtype=torch.bool)], 1)
        net = MaskedMLP(sees.repeat(self.elementwise.count, 1), [width, width], nn.SiLU)
        zero(net[-1])
        return net

    def forward(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return r' and the log-determinant."""
        c = self._project(r)
        moved, log_slope = self.elementwise.forward(c, self._raw(c, context))
        return self._moved(r, moved - c), log_slope.sum(-1)

    def inverse(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the r that forward maps to r', and the log-determinant of forward."""
        c = self._project(r)
        order = range(self.count) if self.parity else reversed(range(self.count))
        found = torch.zeros_like(c)
        log_slope = torch.zeros_like(c)
        for k in order:
            back, slope = self.elementwise.inverse(c, self._raw(found, context))
            this = torch.arange(self.count, device=c.device) == k
            found, log_slope = torch.where(this, back, found), torch.where(this, slope, log_slope)
        return self._moved(r, found - c), log_slope.sum(-1)
