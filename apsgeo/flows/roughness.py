"""Features that tell a network how rough a field is, read off the mean of the base."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain

__all__ = ["Roughness"]

_STEEP = 4.0  # the squash begins to bend at details of a quarter of the base's deviation
_LEAST = 1e-4  # least mean square of a detail, in units of the base's variance


class Roughness(nn.Module):
    """Details of a field by octave, in units of a standard deviation, and the logs of their sizes.

    A Gaussian prior has one roughness at each place. The roughness of real fields varies by orders
    of magnitude, and the posterior mean shows where, in differences of a hundredth of its range,
    which a network hardly finds by itself. These features are such differences. The field is
    smoothed by means over neighbours: once, then 4 times, 16 times and so on, so that the reach
    doubles, and each smoothed field is subtracted from the one before (a Laplacian pyramid that is
    not decimated; Burt & Adelson 1983, https://doi.org/10.1109/TCOM.1983.1095851).

    Args:
        domain: Domain of the fields.
        octaves: Number of octaves.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, domain: Domain, octaves: int) -> None:
        super().__init__()
        nodes = domain.num_nodes
        source, target = domain.edge_index.numpy()
        degree = np.bincount(source, minlength=nodes)
        around = sp.coo_array((0.5 / degree[source], (source, target)), (nodes, nodes))
        smooth = (around + sp.diags_array(np.where(degree > 0, 0.5, 1.0))).tocsr()
        # a sparse tensor cannot be deep-copied, its parts can
        self.register_buffer("starts", torch.from_numpy(smooth.indptr), persistent=False)
        self.register_buffer("columns", torch.from_numpy(smooth.indices), persistent=False)
        self.register_buffer("values", torch.from_numpy(smooth.data), persistent=False)
        self.octaves = octaves

    @property
    def features(self) -> int:
        """Number of features for each channel."""
        return 2 * self.octaves

    def _smoothing(self, like: Tensor) -> Tensor:
        """Return the sparse matrix (node, node) of one smoothing, of the dtype of fields."""
        with warnings.catch_warnings():  # that torch calls its support of these beta, once
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                self.starts,
                self.columns,
                self.values.to(like.dtype),
                (like.shape[-1],) * 2,
                check_invariants=False,
            )

    def forward(self, field: Tensor, std: Tensor) -> Tensor:
        """Map fields and their std, each (batch, channel, node), to (batch, feature, node)."""
        found, shape = [], field.shape
        rows, unit = (x.flatten(0, 1).T.contiguous() for x in (field, std))
        once = self._smoothing(field)
        for octave in range(self.octaves):
            times = 4**octave  # which doubles the reach
            smooth = _repeated(once, rows, times)
            detail = (rows - smooth) / unit
            size = _repeated(once, detail**2, times)
            found += [torch.asinh(_STEEP * detail), 0.5 * (size + _LEAST).log() + 2.0]
            rows = smooth
        return torch.cat([x.T.reshape(shape) for x in found], 1)


def _repeated(matrix: Tensor, rows: Tensor, times: int) -> Tensor:
    for _ in range(times):
        rows = matrix @ rows
    return rows
