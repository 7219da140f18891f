"""Invertible elementwise and coupling maps of standardized deviations, given a context.

Every map sends r (member, batch, channel, node) to r' and log |det dr'/dr| (member, batch), and
starts as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain

__all__ = ["ElementwiseAffine", "GlobalCoupling", "LocalCoupling"]

_LIMIT = 2.0  # bound of a log scale: no map stretches by more than e^2


def _bounded(raw: Tensor) -> Tensor:
    return _LIMIT * torch.tanh(raw / _LIMIT)


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ElementwiseAffine(nn.Module):
    """r' = shift(context) + exp(s(context)) r at every node: corrects mean and spread."""

    def __init__(self, domain: Domain, channels: int, context: int) -> None:
        super().__init__()
        self.head = _zero(domain.conv(context, 2 * channels, 1))

    def _shift_and_scale(self, context: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.head(context).chunk(2, dim=1)
        return shift, _bounded(raw)

    def forward(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return r' and the log-determinant."""
        shift, log_scale = self._shift_and_scale(context)
        return shift + log_scale.exp() * r, log_scale.flatten(1).sum(1).expand(r.shape[:2])

    def inverse(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the r that forward maps to r', and the log-determinant of forward."""
        shift, log_scale = self._shift_and_scale(context)
        return (r - shift) * (-log_scale).exp(), log_scale.flatten(1).sum(1).expand(r.shape[:2])


class LocalCoupling(nn.Module):
    """Affine coupling on the domain's two-colouring, with convolutional context (RealNVP).

    One colour is kept and decides, through a small convolutional network, shift and scale of
    the other (Dinh et al. 2017, arXiv 1605.08803).
    """

    keep: Tensor

    def __init__(
        self, domain: Domain, channels: int, context: int, *, parity: bool, width: int = 16
    ) -> None:
        super().__init__()
        self.register_buffer("keep", domain.colouring == parity, persistent=False)
        self.from_signal = domain.conv(channels, width, 3)
        self.from_context = domain.conv(context, width, 1)
        self.hidden = domain.conv(width, width, 3)
        self.head = _zero(domain.conv(width, 2 * channels, 1))

    def _shift_and_scale(self, kept: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        members, batch = kept.shape[:2]
        hidden = self.from_signal(kept.flatten(0, 1)).unflatten(0, (members, batch))
        hidden = torch.nn.functional.silu(hidden + self.from_context(context))
        hidden = torch.nn.functional.silu(self.hidden(hidden.flatten(0, 1)))
        shift, raw = self.head(hidden).unflatten(0, (members, batch)).chunk(2, dim=2)
        moved = (~self.keep).to(shift)
        return shift * moved, _bounded(raw) * moved

    def forward(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return r' and the log-determinant."""
        shift, log_scale = self._shift_and_scale(r * self.keep, context)
        return shift + log_scale.exp() * r, log_scale.flatten(2).sum(2)

    def inverse(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the r that forward maps to r', and the log-determinant of forward."""
        shift, log_scale = self._shift_and_scale(r * self.keep, context)
        return (r - shift) * (-log_scale).exp(), log_scale.flatten(2).sum(2)


class GlobalCoupling(nn.Module):
    """Affine coupling of the coefficients on a few large-scale patterns; the rest is untouched.

    With patterns E, orthonormal in the weights w, c = E^T w r; every other coefficient is moved
    by an MLP that sees the kept ones and the context's inner products with the patterns.
    """

    basis: Tensor
    weights: Tensor
    keep: Tensor

    def __init__(
        self, basis: Tensor, weights: Tensor, context: int, *, parity: bool, width: int = 64
    ) -> None:
        super().__init__()
        count = basis.shape[-1]
        self.register_buffer("basis", basis.float(), persistent=False)
        self.register_buffer("weights", weights.float(), persistent=False)
        self.register_buffer("keep", (torch.arange(count) % 2 == 0) == parity, persistent=False)
        self.reduce = nn.Linear(context, 4)
        self.net = nn.Sequential(
            nn.Linear(5 * count, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            _zero(nn.Linear(width, 2 * count)),
        )

    def _project(self, signal: Tensor) -> Tensor:
        return torch.einsum("...cn,cnk,n->...k", signal, self.basis, self.weights)

    def _shift_and_scale(self, coefficients: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        reduced = self.reduce(context.transpose(1, 2)).transpose(1, 2)
        patterns = self.basis.mean(0)
        seen = torch.einsum("bfn,nk,n->bfk", reduced, patterns, self.weights).flatten(1)
        inputs = torch.cat([coefficients * self.keep, seen.expand(len(coefficients), -1, -1)], -1)
        shift, raw = self.net(inputs).chunk(2, dim=-1)
        moved = (~self.keep).to(shift)
        return shift * moved, _bounded(raw) * moved

    def _add(self, r: Tensor, change: Tensor) -> Tensor:
        return r + torch.einsum("...k,cnk->...cn", change, self.basis)

    def forward(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return r' and the log-determinant."""
        c = self._project(r)
        shift, log_scale = self._shift_and_scale(c, context)
        return self._add(r, shift + (log_scale.exp() - 1.0) * c), log_scale.sum(-1)

    def inverse(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the r that forward maps to r', and the log-determinant of forward."""
        c = self._project(r)
        shift, log_scale = self._shift_and_scale(c, context)
        return self._add(r, (c - shift) * (-log_scale).exp() - c), log_scale.sum(-1)
