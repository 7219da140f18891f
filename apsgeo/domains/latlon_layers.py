"""The layers that a latitude-longitude grid lends to networks."""

import torch
from torch import Tensor, nn

__all__ = ["LatLonConv", "LatLonPool", "LatLonUnpool"]


class LatLonConv(nn.Module):
    """Convolve a latitude-longitude grid, round the globe and across its poles.

    Beyond the first or last column of a global grid stands the one at the other end. Beyond the
    row next to a pole stands the row that a meridian meets after crossing it: 180 degrees away,
    read by linear interpolation where no column stands just there. Elsewhere the border's value
    is repeated.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd width of the kernel in cells.
        shape: rows and columns of the grid.
        periodic: whether the columns go round the globe.
        across: for the first and the last row, how many rows to skip in the mirror when it is
            next to a pole (1 if it lies on the pole itself, else 0), or None when it is not.
        opposite: `(i, j, w)`, each `(columns,)`: 180 degrees from a column, a row's value is
            (1 - w) of column i and w of column j.
    """

    west: Tensor
    east: Tensor
    weight_east: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        shape: tuple[int, int],
        periodic: bool,
        across: tuple[int | None, int | None],
        opposite: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size)
        self.pad = kernel_size // 2
        self.shape = shape
        self.periodic = periodic
        self.across = across
        west, east, weight_east = opposite
        self.interpolated = bool((weight_east != 0).any())
        self.register_buffer("west", west, persistent=False)
        self.register_buffer("east", east, persistent=False)
        self.register_buffer("weight_east", weight_east, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in_channels, N)` to `(B, out_channels, N)`."""
        grid = x.unflatten(-1, self.shape)
        if self.pad:
            grid = self._pad_columns(self._pad_rows(grid))
        return self.conv(grid).flatten(2)

    def _pad_rows(self, grid: Tensor) -> Tensor:
        north, south = self.across
        if north is None:
            above = grid[:, :, :1].expand(-1, -1, self.pad, -1)
        else:
            above = self._opposite(grid[:, :, north : north + self.pad].flip(2))
        if south is None:
            below = grid[:, :, -1:].expand(-1, -1, self.pad, -1)
        else:
            end = grid.shape[2] - south
            below = self._opposite(grid[:, :, end - self.pad : end].flip(2))
        return torch.cat([above, grid, below], 2)

    def _opposite(self, rows: Tensor) -> Tensor:
        west = rows.index_select(3, self.west)
        if not self.interpolated:
            return west
        return torch.lerp(west, rows.index_select(3, self.east), self.weight_east.to(rows.dtype))

    def _pad_columns(self, grid: Tensor) -> Tensor:
        if self.periodic:
            return torch.cat([grid[..., -self.pad :], grid, grid[..., : self.pad]], 3)
        left = grid[..., :1].expand(-1, -1, -1, self.pad)
        right = grid[..., -1:].expand(-1, -1, -1, self.pad)
        return torch.cat([left, grid, right], 3)


class LatLonPool(nn.Module):
    """Take the area-weighted mean of each coarse cell.

    Areas are products of a row's and a column's share, and so are the weights.

    Args:
        rows: weights `(coarse rows, rows)`; each row of it sums to one.
        columns: weights `(columns, coarse columns)`; each column of it sums to one.
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
        rows: the coarse row `(rows,)` of each row.
        columns: the coarse column `(columns,)` of each column.
        shape: coarse rows and columns.
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
