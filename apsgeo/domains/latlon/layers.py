"""The layers that a latitude-longitude grid lends to networks."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Border", "LatLonConv", "LatLonPool", "LatLonUnpool", "extend"]


class Border(NamedTuple):
    """What lies beyond the border of a latitude-longitude grid.

    Beyond the first or last column of a periodic grid stands the one at the other end. Beyond a
    row next to a pole stands the row that a meridian meets after crossing it. Elsewhere the
    border's value is repeated.
    """

    periodic: bool
    """Whether the columns go round the globe."""
    across: tuple[int | None, int | None]
    """For the first and the last row: 1 if it lies on the pole, so that the row before it is the
    next one beyond; 0 if it is its own mirror image; None if it is not next to a pole."""
    opposite: Tensor
    """The last column `(W,)`, int64, at or west of 180 degrees from each column."""
    weight: Tensor
    """The weight `(W,)` of the column east of `opposite`, to interpolate linearly."""


class _Bordered(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.pad, ctx.border = inputs


class _Extend(_Bordered):
    """Extend a grid `(B, C, H, W)` by `pad` cells each way, with one copy of the data.

    The map is linear; `_Fold` is its adjoint. (The same from `torch.cat` costs four copies forward
    and more backward, a quarter of a network's training time on a CPU.)
    """

    @staticmethod
    def forward(grid: Tensor, pad: int, border: Border) -> Tensor:
        batch, channels, height, width = grid.shape
        # channels last is the layout that convolutions on a CPU need no reordering of
        out = torch.empty(
            (batch, channels, height + 2 * pad, width + 2 * pad),
            dtype=grid.dtype,
            device=grid.device,
            memory_format=torch.channels_last,
        )
        rows = out[..., pad:-pad]
        rows[:, :, pad:-pad] = grid
        north, south = _mirrors(border, height, pad)
        rows[:, :, :pad] = grid[:, :, :1] if north is None else _turn(grid[:, :, north], border)
        rows[:, :, -pad:] = grid[:, :, -1:] if south is None else _turn(grid[:, :, south], border)
        out[..., :pad] = rows[..., -pad:] if border.periodic else rows[..., :1]
        out[..., -pad:] = rows[..., :pad] if border.periodic else rows[..., -1:]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Fold.apply(grads[0], ctx.pad, ctx.border), None, None


class _Fold(_Bordered):
    """Add what lies beyond the border to the cells that it was copied from."""

    @staticmethod
    def forward(extended: Tensor, pad: int, border: Border) -> Tensor:
        grid = _fold_columns(extended[:, :, pad:-pad], pad, border.periodic)
        above = _fold_columns(extended[:, :, :pad], pad, border.periodic)
        below = _fold_columns(extended[:, :, -pad:], pad, border.periodic)
        north, south = _mirrors(border, grid.shape[2], pad)
        if north is None:
            grid[:, :, 0] += above.sum(2)
        else:
            grid[:, :, north] += _turn_back(above, border)
        if south is None:
            grid[:, :, -1] += below.sum(2)
        else:
            grid[:, :, south] += _turn_back(below, border)
        return grid

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Extend.apply(grads[0], ctx.pad, ctx.border), None, None


def extend(grid: Tensor, pad: int, border: Border) -> Tensor:
    """Return a grid `(B, C, H, W)` with `pad` cells more each way, in channels-last memory."""
    out: Tensor = _Extend.apply(grid, pad, border)
    return out


def _mirrors(border: Border, height: int, pad: int) -> tuple[list[int] | None, list[int] | None]:
    """Rows that stand above the first and below the last row, from north to south."""
    first, last = border.across
    north = None if first is None else [first + pad - 1 - i for i in range(pad)]
    south = None if last is None else [height - 1 - last - i for i in range(pad)]
    return north, south


def _turn(rows: Tensor, border: Border) -> Tensor:
    """Turn rows `(B, C, pad, W)` by 180 degrees of longitude."""
    west = rows[..., border.opposite]
    east = rows.roll(-1, -1)[..., border.opposite]
    return torch.lerp(west, east, border.weight.to(rows.dtype))


def _turn_back(rows: Tensor, border: Border) -> Tensor:
    """Apply the adjoint of `_turn`."""
    weight = border.weight.to(rows.dtype)
    west = torch.zeros_like(rows).index_add_(-1, border.opposite, rows * (1 - weight))
    east = torch.zeros_like(rows).index_add_(-1, border.opposite, rows * weight)
    return west + east.roll(1, -1)


def _fold_columns(extended: Tensor, pad: int, periodic: bool) -> Tensor:
    grid = extended[..., pad:-pad].clone(memory_format=torch.contiguous_format)
    if periodic:
        grid[..., -pad:] += extended[..., :pad]
        grid[..., :pad] += extended[..., -pad:]
    else:
        grid[..., 0] += extended[..., :pad].sum(-1)
        grid[..., -1] += extended[..., -pad:].sum(-1)
    return grid


class LatLonConv(nn.Module):
    """Convolve a latitude-longitude grid, round the globe and across its poles.

    Args:
        in_channels: Number of channels in the input.
        out_channels: Number of channels in the output.
        kernel_size: Odd width of the kernel in cells.
        shape: Rows and columns of the grid.
        border: Description of what lies beyond the grid's border.
    """

    opposite: Tensor
    weight: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        shape: tuple[int, int],
        border: Border,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.pad = kernel_size // 2
        self.shape = shape
        self.periodic = border.periodic
        self.across = border.across
        self.register_buffer("opposite", border.opposite, persistent=False)
        self.register_buffer("weight", border.weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in_channels, N)` to `(B, out_channels, N)`."""
        grid = x.unflatten(-1, self.shape)
        if self.pad:
            border = Border(self.periodic, self.across, self.opposite, self.weight)
            grid = extend(grid, self.pad, border)
        return self.conv(grid).contiguous().flatten(2)


class LatLonPool(nn.Module):
    """Take the area-weighted mean of each coarse cell.

    A cell's area is the product of its row's and its column's share, and so are the weights.

    Args:
        rows: Weights `(coarse rows, rows)`; each row of it sums to one.
        columns: Weights `(columns, coarse columns)`; each column of it sums to one.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, N)` to `(B, C, coarse N)`."""
        grid = x.unflatten(-1, (self.rows.shape[1], self.columns.shape[0]))
        return (self.rows.to(x.dtype) @ (grid @ self.columns.to(x.dtype))).flatten(2)


class LatLonUnpool(nn.Module):
    """Give each cell the value of the coarse cell that holds it.

    Args:
        rows: The coarse row `(rows,)` of each row.
        columns: The coarse column `(columns,)` of each column.
        shape: Coarse rows and columns.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, coarse N)` to `(B, C, N)`."""
        grid = x.unflatten(-1, self.shape)
        return grid.index_select(3, self.columns).index_select(2, self.rows).flatten(2)
