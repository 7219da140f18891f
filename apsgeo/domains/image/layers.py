"""The layers that an image lends to networks."""

import torch
from torch import Tensor, nn

from apsgeo.domains.latlon.layers import Border, extend

__all__ = ["ImageConv", "ImagePool", "ImageUnpool"]


class ImageConv(nn.Module):
    """Convolve an image; the border's pixels are repeated beyond it.

    Args:
        in_channels: Number of channels in the input.
        out_channels: Number of channels in the output.
        kernel_size: Odd width of the kernel in pixels.
        shape: Rows and columns.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, shape: tuple[int, int]
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.pad = kernel_size // 2
        self.shape = shape
        self.border = Border(False, (None, None), torch.empty(0), torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in_channels, N)` to `(B, out_channels, N)`."""
        image = x.unflatten(-1, self.shape)
        if self.pad:
            image = extend(image, self.pad, self.border)
        return self.conv(image).contiguous().flatten(2)


def _pair(x: Tensor, count: int) -> Tensor:
    """Sum pairs along the last axis into `count` sums, the last of three if one is left over."""
    paired = x[..., : 2 * count].unflatten(-1, (count, 2)).sum(-1)
    if x.shape[-1] == 2 * count:
        return paired
    return torch.cat([paired[..., :-1], paired[..., -1:] + x[..., -1:]], -1)


def _spread(x: Tensor, count: int) -> Tensor:
    """Repeat each entry of the last axis twice, and the last as often as `count` needs."""
    twice = x.repeat_interleave(2, -1)
    if count == twice.shape[-1]:
        return twice
    return torch.cat([twice, x[..., -1:]], -1)


class ImagePool(nn.Module):
    """Take the area-weighted mean of blocks of 2 x 2 pixels, three where a side is odd.

    Args:
        heights: The rows' heights `(H,)`.
        widths: The columns' widths `(W,)`.
        coarse: Rows and columns of the result.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, heights: Tensor, widths: Tensor, coarse: tuple[int, int]) -> None:
        super().__init__()
        self.coarse = coarse
        for name, sizes, count in zip(("rows", "columns"), (heights, widths), coarse, strict=True):
            share = sizes / _spread(_pair(sizes, count), len(sizes))
            self.register_buffer(name, share, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, N)` to `(B, C, coarse N)`."""
        image = x.unflatten(-1, (len(self.rows), len(self.columns)))
        image = _pair(image * self.columns.to(x.dtype), self.coarse[1])
        image = _pair(image.mT * self.rows.to(x.dtype), self.coarse[0]).mT
        return image.flatten(2)


class ImageUnpool(nn.Module):
    """Give each pixel the value of the block that holds it.

    Args:
        shape: Rows and columns of the result.
        coarse: Rows and columns of the blocks.
    """

    def __init__(self, shape: tuple[int, int], coarse: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.coarse = coarse

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, coarse N)` to `(B, C, N)`."""
        image = _spread(x.unflatten(-1, self.coarse), self.shape[1])
        return _spread(image.mT, self.shape[0]).mT.flatten(2)
