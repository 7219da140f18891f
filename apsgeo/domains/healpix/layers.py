"""The layers that a HEALPix sphere lends to networks."""

import torch
from torch import Tensor, nn

__all__ = ["HEALPixFaceConv", "HEALPixPatchConv", "HEALPixPool"]


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """Take `x[..., index]`, whose gradient by `gather` is faster than that of indexing."""
    return x.gather(-1, index.expand(*x.shape[:-1], -1))


def _extend(x: Tensor, pairs: Tensor) -> Tensor:
    """Append the means of pairs of nodes to the nodes."""
    if not pairs.numel():
        return x
    return torch.cat([x, (_pick(x, pairs[0]) + _pick(x, pairs[1])) / 2], -1)


class _HEALPixConv(nn.Module):
    """Hold the weights of a square kernel and the table of what it meets; see the subclasses."""

    table: Tensor
    pairs: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, table: Tensor, pairs: Tensor
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("pairs", pairs, persistent=False)


class HEALPixFaceConv(_HEALPixConv):
    """Convolve the full sphere, as twelve images extended beyond their sides.

    Args:
        in_channels: Number of channels in the input.
        out_channels: Number of channels in the output.
        kernel_size: Odd width of the kernel in pixels.
        table: The nodes `(12, S, S)` on the extended base pixels, flat, or from N on `pairs`.
        pairs: Nodes `(2, P)` whose means stand beyond the corners where three base pixels meet.
        place: Place `(N,)` of each node in base pixels stacked above each other, of which each
            but the last is followed by `kernel_size - 1` rows of no meaning.
    """

    place: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        table: Tensor,
        pairs: Tensor,
        place: Tensor,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, table, pairs)
        self.side = round((len(table) / 12) ** 0.5)
        self.register_buffer("place", place, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in_channels, N)` to `(B, out_channels, N)`."""
        faces = _pick(_extend(x, self.pairs), self.table)
        # one tall image costs less than twelve: what straddles two base pixels is left out
        image = faces.unflatten(-1, (12 * self.side, self.side))
        return _pick(self.conv(image).flatten(2), self.place)


class HEALPixPatchConv(_HEALPixConv):
    """Convolve a part of the sphere, patch by patch; its border's pixels are repeated beyond it.

    Args:
        in_channels: Number of channels in the input.
        out_channels: Number of channels in the output.
        kernel_size: Odd width of the kernel in pixels.
        table: The nodes `(kernel_size ** 2, N)` of the patches, flat, or from N on `pairs`.
        pairs: Nodes `(2, P)` whose means stand beyond the corners where three base pixels meet.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in_channels, N)` to `(B, out_channels, N)`."""
        patches = _pick(_extend(x, self.pairs), self.table).unflatten(-1, (-1, x.shape[-1]))
        weight, bias = self.conv.parameters()
        return weight.flatten(1) @ patches.flatten(1, 2) + bias[:, None]


class HEALPixPool(nn.Module):
    """Take the area-weighted mean of the four pixels in each coarse pixel.

    Args:
        fours: Nodes `(coarse N, 4)`; any node stands for one that is absent.
        share: Shares `(coarse N, 4)` of these nodes in the coarse pixel, 0 for one that is absent.
    """

    fours: Tensor
    share: Tensor

    def __init__(self, fours: Tensor, share: Tensor) -> None:
        super().__init__()
        flat = fours.flatten()
        self.in_order = torch.equal(flat, torch.arange(len(flat)))
        self.register_buffer("fours", flat, persistent=False)
        self.register_buffer("share", share, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, N)` to `(B, C, coarse N)`."""
        grouped = x if self.in_order else _pick(x, self.fours)
        return (grouped.unflatten(-1, (-1, 4)) * self.share.to(x.dtype)).sum(-1)
