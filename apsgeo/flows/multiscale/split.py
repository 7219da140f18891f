"""The split of a field into its means over groups of nodes and details: Haar's, on any domain."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain

__all__ = ["Split"]


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """Take `x[..., index]`, whose gradient by `gather` is faster than that of indexing."""
    return x.gather(-1, index.expand(*x.shape[:-1], -1))


class Split(nn.Module):
    r"""Split fields into the area-weighted means of groups of nodes, and details.

    The groups are those that `Domain.pool` merges. Within a group of areas a_i with the sum A, the
    values sqrt(a_i) x_i are reflected by Householder's matrix :math:`I - 2 v v^T / v^T v`, v = e_1
    - u, which takes the unit vector u_i = sqrt(a_i / A) to e_1. Its first coefficient is sqrt(A)
    times the mean, the others are the details: zero for a constant, orthonormal in the inner
    product by area, and with a determinant of one in size. A reflection is its own inverse. Of four
    equal areas it is the transform of Haar.

    Args:
        domain: Domain of the fields, which can be coarsened.
    """

    index: Tensor
    place: Tensor
    present: Tensor
    root: Tensor
    reflector: Tensor
    total: Tensor

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        coarse = domain.coarse()
        numbers = torch.arange(coarse.num_nodes, dtype=torch.float64)
        parent = domain.unpool()(numbers[None, None])[0, 0].round().long()
        order = parent.argsort(stable=True)
        counts = torch.bincount(parent, minlength=coarse.num_nodes)
        slot = torch.arange(len(parent)) - (counts.cumsum(0) - counts)[parent[order]]
        self.size, groups = int(counts.max()), coarse.num_nodes
        index = torch.zeros(self.size, groups, dtype=torch.long)
        index[slot, parent[order]] = order
        present = torch.zeros(self.size, groups, dtype=torch.bool)
        present[slot, parent[order]] = True
        place = torch.empty_like(parent)
        place[order] = slot * groups + parent[order]
        area = torch.where(present, domain.areas[index] / domain.areas.mean(), 0.0)
        total = area.sum(0)
        reflector = -(area / total).sqrt()
        reflector[0] += 1.0
        norm = reflector.square().sum(0).sqrt()
        reflector = torch.where(norm > 1e-9, reflector / norm.clamp(min=1e-9), 0.0)
        self.register_buffer("index", index.flatten(), persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("present", present, persistent=False)
        self.register_buffer("root", area.sqrt(), persistent=False)
        self.register_buffer("reflector", reflector, persistent=False)
        self.register_buffer("total", total.sqrt(), persistent=False)

    @property
    def details(self) -> int:
        """Number of details of the largest group; smaller ones have zeros in their place."""
        return self.size - 1

    @property
    def detailed(self) -> Tensor:
        """Mask (detail, group) of the details that there are."""
        return self.present[1:]

    def stack(self, x: Tensor) -> Tensor:
        """Turn (..., channel, node) into (..., member * channel, group), zero where there is none.

        The values of the members of each group become channels.
        """
        stacked = _pick(x, self.index).unflatten(-1, (self.size, -1)) * self.present.to(x.dtype)
        return stacked.movedim(-2, -3).flatten(-3, -2)

    def unstack(self, x: Tensor) -> Tensor:
        """Undo `stack`."""
        return _pick(x.unflatten(-2, (self.size, -1)).movedim(-3, -2).flatten(-2), self.place)

    def _reflect(self, x: Tensor) -> Tensor:
        v = self.reflector.to(x.dtype)
        return x - 2.0 * v * (x * v).sum(-2, keepdim=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split (..., channel, node) into means (..., channel, group) and details.

        The details are (..., channel, detail, group).
        """
        scaled = _pick(x, self.index).unflatten(-1, (self.size, -1)) * self.root.to(x.dtype)
        found = self._reflect(scaled)
        return found[..., 0, :] / self.total.to(x.dtype), found[..., 1:, :]

    def merge(self, mean: Tensor, details: Tensor) -> Tensor:
        """Undo `forward`."""
        first = (mean * self.total.to(mean.dtype))[..., None, :]
        scaled = self._reflect(torch.cat([first, details], -2))
        root = torch.where(self.present, self.root, 1.0).to(mean.dtype)
        return _pick((scaled / root).flatten(-2), self.place)

    def variances(self, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the variances of means and details of independent values, shaped as `forward`'s.

        Those of details that there are not are one.
        """
        scaled = _pick(variance, self.index).unflatten(-1, (self.size, -1))
        scaled = scaled * self.root.square().to(variance.dtype)
        v = self.reflector.to(variance.dtype)
        eye = torch.eye(self.size, dtype=v.dtype, device=v.device)
        matrix = eye[..., None] - 2.0 * v[:, None] * v[None, :]
        found = (matrix.square() * scaled[..., None, :, :]).sum(-2)
        mean = found[..., 0, :] / self.total.square().to(variance.dtype)
        return mean, torch.where(self.detailed, found[..., 1:, :], 1.0)
