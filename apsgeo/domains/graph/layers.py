"""The layers that meshes and graphs lend to networks."""

import warnings

import torch
from torch import Tensor, nn

__all__ = ["AggregatePool", "AggregateUnpool", "GraphConv", "graph_operators"]


def graph_operators(positions: Tensor, edge_index: Tensor, edge_length: Tensor) -> Tensor:
    r"""Return the neighbours' mean and the differences along each axis, stacked.

    With weights :math:`\omega_{ij}`, which fall with the length and sum to one over the
    neighbours, the first is :math:`\sum_j \omega_{ij} x_j` and the others are :math:`\sum_j
    \omega_{ij} u_{ij} (x_j - x_i)` for each component of the unit vector :math:`u_{ij}`. (The
    means alone would make kernels that know no direction.)

    Args:
        positions: Coordinates `(N, d)`.
        edge_index: Edges `(2, E)`, in both directions.
        edge_length: Lengths `(E,)` of the edges, above zero.

    Returns:
        A sparse tensor `((1 + d) N, N)`, float32, in compressed rows.
    """
    target, source = edge_index
    num_nodes, axes = positions.shape
    weight = 1 / edge_length
    total = torch.zeros_like(positions[:, 0]).index_add_(0, target, weight)
    weight = weight / total[target]
    unit = (positions[source] - positions[target]) / edge_length[:, None]
    rows, columns, values = [target], [source], [weight]
    for axis in range(axes):
        slope = weight * unit[:, axis]
        shift = (1 + axis) * num_nodes
        rows += [target + shift, target + shift]
        columns += [source, target]
        values += [slope, -slope]
    indices = torch.stack([torch.cat(rows), torch.cat(columns)])
    shape = ((1 + axes) * num_nodes, num_nodes)
    stacked = torch.sparse_coo_tensor(
        indices, torch.cat(values).float(), shape, check_invariants=True
    )
    with warnings.catch_warnings():  # that torch calls its support of these beta, once
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return stacked.coalesce().to_sparse_csr()


class GraphConv(nn.Module):
    """Mix a node's channels with its neighbours' means and differences.

    For one hop the channels are joined by the neighbours' means and by their differences along
    each axis; for more, by Chebyshev polynomials of the mean (Defferrard, Bresson & Vandergheynst
    2016, *Convolutional neural networks on graphs with fast localized spectral filtering*). It
    commutes with any relabelling of the nodes.

    Args:
        in_channels: Number of channels in the input.
        out_channels: Number of channels in the output.
        hops: Number of edges that the convolution reaches over.
        operators: Sparse matrix that `graph_operators` returned.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, in_channels: int, out_channels: int, hops: int, operators: Tensor) -> None:
        super().__init__()
        from torch_geometric.nn import SimpleConv  # seconds to import

        self.hops = hops
        self.num_nodes = operators.shape[1]
        self.gather = SimpleConv(aggr="sum")
        stack = 1 if not hops else operators.shape[0] // self.num_nodes + hops
        self.mix = nn.Conv1d(stack * in_channels, out_channels, 1)
        # a sparse tensor cannot be deep-copied, its parts can
        self.register_buffer("starts", operators.crow_indices(), persistent=False)
        self.register_buffer("columns", operators.col_indices(), persistent=False)
        self.register_buffer("values", operators.values(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in_channels, N)` to `(B, out_channels, N)`."""
        if not self.hops:
            return self.mix(x)
        with torch.autocast(x.device.type, enabled=False):
            half = x.dtype in (torch.bfloat16, torch.float16)  # of which there is no sparse product
            joined = self._join(x.float() if half else x)
        return self.mix(joined)

    def _join(self, x: Tensor) -> Tensor:
        """Return the channels and what they are about each node, (B, stack * channels, N)."""
        batch, channels, nodes = x.shape
        rows = x.permute(2, 0, 1).reshape(nodes, batch * channels)
        shape = (len(self.starts) - 1, nodes)
        values = self.values.to(x.dtype)
        operators = torch.sparse_csr_tensor(
            self.starts, self.columns, values, shape, check_invariants=False
        )
        stack = [rows, *self.gather((rows, None), operators).split(nodes)]
        before, last = stack[:2]
        for _ in range(self.hops - 1):
            # the first N rows are the mean; the rest costs little next to the mixing
            mean = self.gather((last, None), operators)[:nodes]
            before, last = last, 2 * mean - before
            stack.append(last)
        joined = torch.stack(stack).unflatten(-1, (batch, channels)).permute(2, 0, 3, 1)
        return joined.flatten(1, 2)


class AggregatePool(nn.Module):
    """Take the area-weighted mean of the nodes in each coarse node.

    Args:
        parent: The coarse node `(N,)` of each node.
        share: Each node's share `(N,)` in its coarse node.
        count: The number of coarse nodes.
    """

    parent: Tensor
    share: Tensor

    def __init__(self, parent: Tensor, share: Tensor, count: int) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("parent", parent, persistent=False)
        self.register_buffer("share", share, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, N)` to `(B, C, coarse N)`."""
        index = self.parent.expand_as(x)
        zeros = x.new_zeros(*x.shape[:-1], self.count)
        return zeros.scatter_add(-1, index, x * self.share.to(x.dtype))


class AggregateUnpool(nn.Module):
    """Give each node the value of the coarse node that holds it.

    Args:
        parent: The coarse node `(N,)` of each node.
    """

    parent: Tensor

    def __init__(self, parent: Tensor) -> None:
        super().__init__()
        self.register_buffer("parent", parent, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, coarse N)` to `(B, C, N)`."""
        return x.gather(-1, self.parent.expand(*x.shape[:-1], -1))
