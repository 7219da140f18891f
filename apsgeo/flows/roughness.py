"""What the mean of a base distribution tells about how rough the field behind it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain

__all__ = ["Roughness"]

_STEEP = 4.0  # details of a quarter of the base's spread are where the squash begins to bend
_LEAST = 1e-4  # least mean square of a detail, in units of the base's variance


class Roughness(nn.Module):
    """Details of a field at several scales, in units of a spread, and the logs of their sizes.

    A Gaussian prior takes one roughness for granted at each place; fields are smooth here and rough
    there, by orders of magnitude, and the mean that it finds shows where. A network that sees only
    the mean has to find in it differences of a hundredth of its range. These are the differences
    between a field and itself, smoothed by means over neighbours: once, then 4 times, 16 times, and
    so on, which doubles the reach each time (a Laplacian pyramid that is not decimated; Burt &
    Adelson 1983, https://doi.org/10.1109/TCOM.1983.1095851).

    Args:
        domain: Where the fields live.
        scales: How many.
    """

    source: Tensor
    target: Tensor
    share: Tensor
    kept: Tensor

    def __init__(self, domain: Domain, scales: int) -> None:
        super().__init__()
        source, target = domain.edge_index
        degree = torch.bincount(source, minlength=domain.num_nodes).float()
        self.register_buffer("source", source, persistent=False)
        self.register_buffer("target", target, persistent=False)
        self.register_buffer("share", 0.5 / degree.clamp(min=1.0), persistent=False)
        self.register_buffer("kept", torch.where(degree > 0, 0.5, 1.0), persistent=False)
        self.scales = scales

    @property
    def features(self) -> int:
        """Number of features for each channel."""
        return 2 * self.scales

    def _smooth(self, field: Tensor, times: int) -> Tensor:
        for _ in range(times):
            around = torch.zeros_like(field).index_add_(2, self.source, field[..., self.target])
            field = self.kept * field + self.share * around
        return field

    def forward(self, field: Tensor, spread: Tensor) -> Tensor:
        """Map fields and their spread, each (batch, channel, node), to (batch, feature, node)."""
        found = []
        for scale in range(self.scales):
            smooth = self._smooth(field, 4**scale)
            detail = (field - smooth) / spread
            size = self._smooth(detail**2, 4**scale)
            found += [torch.asinh(_STEEP * detail), 0.5 * (size + _LEAST).log() + 2.0]
            field = smooth
        return torch.cat(found, 1)
