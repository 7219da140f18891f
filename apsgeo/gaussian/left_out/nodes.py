"""Predictions of observed nodes from the other observations near to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.vecchia.ordering import nearest_of
from apsgeo.measurement import Measurement

__all__ = ["left_out"]

_TOGETHER = 2048  # nodes that are predicted at once
_JITTER = 1e-5  # share of the variance that is white, as in Vecchia's factors


def left_out(
    priors: Sequence[Covariance],
    measurement: Measurement,
    noise_cov: Tensor | None = None,
    near: int = 20,
) -> tuple[Tensor, Tensor]:
    """Predict each observed node without its own observation, from the nearest other ones.

    Args:
        priors: Covariance of each record.
        measurement: Measurement of the nodes themselves; a node is observed if all channels are.
        noise_cov: Covariance (batch, node, channel, channel) of the noise, if that of the channels
            of a node is correlated; by default the measurement's own.
        near: Number of other nodes that a node is predicted from.

    Returns:
        Mean (batch, channel, node) and covariance (batch, node, channel, channel) of the signal,
        double precision; zero where nothing was observed.

    Examples:
        Two pixels that are alike tell of each other:

        >>> from apsgeo import ImageDomain
        >>> from apsgeo.gaussian.low_rank import LowRankPrior
        >>> prior = LowRankPrior(ImageDomain(1, 2), torch.ones(1, 2, 1), white_std=0.1)
        >>> y = torch.tensor([[[1.0, -1.0]]])
        >>> mean, cov = left_out([prior], Measurement.of(y, noise_std=0.1))
        >>> [round(float(each), 2) for each in mean[0, 0]]
        [-0.98, 0.98]
    """
    batch, channels, nodes = measurement.shape
    mean = torch.zeros(batch, channels, nodes, dtype=torch.float64)
    cov = torch.zeros(batch, nodes, channels, channels, dtype=torch.float64)
    values = measurement.values.cpu().double()
    if noise_cov is None:
        noise_cov = torch.diag_embed(measurement.noise_std.cpu().double().mT ** 2)
    for record, prior in enumerate(priors):
        seen = measurement.mask[record].cpu().all(0).nonzero()[:, 0]
        positions = prior.domain.positions[seen].numpy()
        found = torch.from_numpy(nearest_of(positions, positions, near + 1)[0])
        itself = found == torch.arange(len(seen))[:, None]
        others = found.gather(1, itself.long().argsort(dim=1, stable=True))[:, :near]
        others = others[:, : max(len(seen) - 1, 0)]
        for each in torch.arange(len(seen)).split(_TOGETHER):
            group = torch.cat([each[:, None], others[each]], 1)
            index = _values(seen[group], channels, nodes)
            blocks = prior.covariance_blocks(index).double()
            given = index[:, channels:]
            joint = blocks[:, channels:, channels:]
            joint.diagonal(dim1=1, dim2=2).mul_(1.0 + _JITTER)
            # the block diagonal (n, channel, channel, other) of the channels of each other node
            own = joint.unflatten(1, (-1, channels)).unflatten(3, (-1, channels))
            own.diagonal(dim1=1, dim2=3).add_(noise_cov[record, seen[others[each]]].movedim(1, -1))
            cross = blocks[:, :channels, channels:]
            gain = torch.linalg.solve(joint, cross.mT).mT
            y = values[record].flatten()[given][..., None]
            mean[record][:, seen[each]] = (gain @ y)[..., 0].T
            left = blocks[:, :channels, :channels] - gain @ cross.mT
            cov[record, seen[each]] = (left + left.mT) / 2.0
    return mean, cov


def _values(nodes: Tensor, channels: int, count: int) -> Tensor:
    """Return the values (n, k * channel) of nodes (n, k), those of a node together."""
    return (nodes[..., None] + count * torch.arange(channels)).flatten(1)
