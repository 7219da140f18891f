"""Invertible elementwise and coupling maps of standardized deviations, given a context.

Every map sends r (member, batch, channel, node) to r' and log |det dr'/dr| (member, batch), and
starts as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.flows.elementwise import AFFINE, Affine, Elementwise
from apsgeo.nn.layers import zero

__all__ = ["ChannelMixing", "ElementwiseMap", "LocalCoupling", "parameters_last"]


def parameters_last(raw: Tensor, count: int) -> Tensor:
    """Turn (..., count * channel, node) into (..., channel, node, count)."""
    return raw.unflatten(-2, (count, -1)).movedim(-3, -1)


class ElementwiseMap(nn.Module):
    """A monotone map at every node, given the context; it corrects each node's own distribution.

    Args:
        domain: Domain of the signals.
        channels: Number of channels of the signals.
        context: Number of features of the context.
        elementwise: Family of maps of single numbers.
    """

    def __init__(
        self, domain: Domain, channels: int, context: int, elementwise: Elementwise = AFFINE
    ) -> None:
        super().__init__()
        self.elementwise = elementwise
        self.head = zero(domain.conv(context, elementwise.count * channels, 1))

    def _raw(self, context: Tensor) -> Tensor:
        return parameters_last(self.head(context), self.elementwise.count)

    @property
    def affine(self) -> bool:
        """Whether the map is affine."""
        return isinstance(self.elementwise, Affine)

    def shift_and_scale(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shift and the slope (batch, channel, node) of an affine map."""
        raw = self._raw(context)
        shift, log_scale = self.elementwise.forward(torch.zeros_like(raw[..., 0]), raw)
        return shift, log_scale.exp()

    def forward(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return r' and the log-determinant."""
        moved, log_slope = self.elementwise.forward(r, self._raw(context))
        return moved, log_slope.flatten(-2).sum(-1).expand(r.shape[:2])

    def inverse(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the r that forward maps to r', and the log-determinant of forward."""
        moved, log_slope = self.elementwise.inverse(r, self._raw(context))
        return moved, log_slope.flatten(-2).sum(-1).expand(r.shape[:2])


class LocalCoupling(nn.Module):
    """Coupling on the domain's two-colouring, with convolutional context (RealNVP).

    One colour is kept and decides, through a small convolutional network, the maps of the other
    (Dinh et al. 2017, arXiv 1605.08803).

    Args:
        domain: Domain of the signals.
        channels: Number of channels of the signals.
        context: Number of features of the context.
        parity: Colour that is kept.
        width: Number of hidden channels.
        elementwise: Family of maps of single numbers.
    """

    keep: Tensor

    def __init__(
        self,
        domain: Domain,
        channels: int,
        context: int,
        *,
        parity: bool,
        width: int = 16,
        elementwise: Elementwise = AFFINE,
    ) -> None:
        super().__init__()
        self.elementwise = elementwise
        self.register_buffer("keep", domain.colouring == parity, persistent=False)
        self.from_signal = domain.conv(channels, width, 3)
        self.from_context = domain.conv(context, width, 1)
        self.hidden = domain.conv(width, width, 3)
        self.head = zero(domain.conv(width, elementwise.count * channels, 1))

    def _raw(self, r: Tensor, context: Tensor) -> Tensor:
        members, batch = r.shape[:2]
        hidden = self.from_signal((r * self.keep).flatten(0, 1)).unflatten(0, (members, batch))
        hidden = torch.nn.functional.silu(hidden + self.from_context(context))
        hidden = torch.nn.functional.silu(self.hidden(hidden.flatten(0, 1)))
        raw = self.head(hidden).unflatten(0, (members, batch))
        return parameters_last(raw, self.elementwise.count)

    def _split(self, r: Tensor, mapped: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        moved, log_slope = mapped
        return torch.where(self.keep, r, moved), (log_slope * ~self.keep).flatten(2).sum(2)

    def forward(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return r' and the log-determinant."""
        return self._split(r, self.elementwise.forward(r, self._raw(r, context)))

    def inverse(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the r that forward maps to r', and the log-determinant of forward."""
        return self._split(r, self.elementwise.inverse(r, self._raw(r, context)))


class ChannelMixing(nn.Module):
    r"""r' = exp(M) r over the channels of every node: the 1x1 convolution of Glow.

    Couplings move the nodes of one colour; this mixes the channels of each node. The matrix
    exponential is always invertible, with the inverse exp(-M) and the log-determinant tr M a node,
    and is the identity at M = 0 (Kingma & Dhariwal 2018, arXiv 1807.03039; as an exponential,
    Hoogeboom et al. 2020, arXiv 2006.01910). It needs no context.

    Args:
        channels: Number of channels of the signals.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.generator = nn.Parameter(torch.zeros(channels, channels))

    def _log_det(self, r: Tensor) -> Tensor:
        return (r.shape[-1] * self.generator.trace()).expand(r.shape[:2])

    def forward(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return r' and the log-determinant."""
        return torch.linalg.matrix_exp(self.generator) @ r, self._log_det(r)

    def inverse(self, r: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the r that forward maps to r', and the log-determinant of forward."""
        return torch.linalg.matrix_exp(-self.generator) @ r, self._log_det(r)
