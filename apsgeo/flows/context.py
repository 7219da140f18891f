"""The context network, which tells a flow at every node what was measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.flows.roughness import Roughness
from apsgeo.flows.start import Known, Start
from apsgeo.nn.unet import UNet

__all__ = ["SiteContext", "feature_count", "measured_features", "site_features"]

_EMBEDDING_STD = 0.1


def feature_count(channels: int, known: Known | None, roughness: Roughness | None) -> int:
    """Return the number of features that `measured_features` returns."""
    told = 0 if roughness is None else roughness.features
    return (5 + told) * channels + (0 if known is None else known.count)


def measured_features(
    start: Start, covariates: Tensor | None, roughness: Roughness | None
) -> Tensor:
    """Return what a context network is told of each measurement, (batch, feature, node).

    Args:
        start: Measurements, and moments of the base given them.
        covariates: Known fields (batch, feature, node), if any.
        roughness: Roughness of the base's mean that is told, too.
    """
    measurement, mean, std = start.measurement, start.mean, start.std()
    seen = measurement.mask  # back-projected by the adjoint, which leaves values of nodes as is
    back = measurement.operator.adjoint
    mask = back(seen.to(mean))
    innovation = measurement.back_project(
        torch.where(seen, measurement.values - measurement.apply(mean), 0.0)
    )
    noise = back(torch.where(seen, measurement.noise_std.log(), 0.0))
    known = [] if covariates is None else [covariates]
    rough = [] if roughness is None else [roughness(mean, std)]
    return torch.cat([mean, std, innovation, mask, noise, *known, *rough], dim=1)


def site_features(domain: Domain, fields: Tensor) -> Tensor:
    """Describe each site by a history of standardized anomalies (time, channel, node).

    The features of each channel are log(1 - correlation with the neighbours), averaged over them,
    which tells how smooth fields are there, and its weighted mean along each axis of the positions,
    which tells in which direction. Each feature has unit variance over the nodes.

    Returns:
        The features (feature, node), float32.
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
    """A U-Net that also sees fixed and learned features of every node.

    Convolutions alone treat all places alike; fields do not (coasts, ice edges, mountains).

    Args:
        domain: Domain of the signals.
        in_channels: Number of features of the measurement.
        out_channels: Number of features of the context.
        sites: Features (feature, node) from `site_features`; zeros where they are loaded later.
        embedding: Number of learned features of each node.
        width: Width of the U-Net.
        depth: Depth of the U-Net.
        cond_dim: Length of a vector that modulates all layers, or 0 for none.
        zero_init: Whether the output is zero before training.
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
        cond_dim: int = 0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("sites", sites)
        self.embedding = nn.Parameter(_EMBEDDING_STD * torch.randn(embedding, domain.num_nodes))
        inputs = in_channels + len(sites) + embedding
        self.network = UNet(
            domain,
            inputs,
            out_channels,
            width=width,
            depth=depth,
            cond_dim=cond_dim,
            zero_init=zero_init,
        )

    def forward(self, features: Tensor, cond: Tensor | None = None) -> Tensor:
        """Map (batch, in_channels, node), and a vector if any, to (batch, out_channels, node)."""
        known = torch.cat([self.sites, self.embedding]).expand(len(features), -1, -1)
        return self.network(torch.cat([features, known], dim=1), cond)
