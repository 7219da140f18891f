"""The context network: what a flow knows of a measurement, at every node."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.nn.unet import UNet

__all__ = ["SiteContext", "site_features"]

_EMBEDDING_STD = 0.1


def site_features(domain: Domain, fields: Tensor) -> Tensor:
    """Describe each site by a history of standardized anomalies (time, channel, node).

    For each channel, log(1 - correlation with the neighbours), whose mean tells how smooth fields
    are there, and its weighted mean along each axis of the positions, which tells in which
    direction; each of unit variance over the nodes.

    Returns:
        (feature, node), float32.
    """
    source, target = domain.edge_index
    scaled = fields.double() - fields.double().mean(0)
    scaled = scaled / scaled.std(0, correction=0).clamp(min=1e-6)
    direction = (domain.positions[target] - domain.positions[source]).abs()
    direction = direction / direction.sum(1, keepdim=True).clamp(min=1e-12)
    weights = torch.cat([torch.ones(len(source), 1, dtype=torch.float64), direction], 1)
    totals = torch.zeros(domain.num_nodes, weights.shape[1], dtype=torch.float64)
    totals.index_add_(0, source, weights)
    features = []
    for channel in scaled.unbind(1):
        correlation = (channel[:, source] * channel[:, target]).mean(0)
        rough = (1.0 - correlation).clamp(min=1e-4).log()
        sums = torch.zeros_like(totals).index_add_(0, source, rough[:, None] * weights)
        features.append((sums / totals.clamp(min=1e-12)).T)
    stacked = torch.cat(features)
    centred = stacked - stacked.mean(1, keepdim=True)
    return (centred / centred.std(1, keepdim=True).clamp(min=1e-6)).float()


class SiteContext(nn.Module):
    """A U-Net that knows its sites: it also sees fixed and learned features of every node.

    Convolutions alone treat all places alike; fields do not (coasts, ice edges, mountains).

    Args:
        domain: Where the signals live.
        in_channels: Features of the measurement.
        out_channels: Context features.
        sites: (feature, node), from `site_features`; zeros where they are loaded later.
        embedding: Learned features of each node.
        width: Of the U-Net.
        depth: Of the U-Net.
    """

    sites: Tensor

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        sites: Tensor,
        *,
        embedding: int,
        width: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.register_buffer("sites", sites)
        self.embedding = nn.Parameter(_EMBEDDING_STD * torch.randn(embedding, domain.num_nodes))
        inputs = in_channels + len(sites) + embedding
        self.network = UNet(domain, inputs, out_channels, width=width, depth=depth, zero_init=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, in_channels, node) to (batch, out_channels, node)."""
        known = torch.cat([self.sites, self.embedding]).expand(len(features), -1, -1)
        return self.network(torch.cat([features, known], dim=1))
