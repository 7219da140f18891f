"""Predictions of observed values from the other observations near to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.vecchia.ordering import nearest_others
from apsgeo.measurement import Measurement

__all__ = ["left_out"]

_TOGETHER = 2048  # nodes that are predicted at once
_JITTER = 1e-5  # share of the variance that is white, as in Vecchia's factors


def left_out(
    priors: Sequence[Covariance],
    measurement: Measurement,
    noise_cov: Tensor | None = None,
    near: int = 20,
    *,
    apart: bool = False,
) -> tuple[Tensor, Tensor]:
    """Predict each observed node without its own observation, from the nearest other ones.

    Args:
        priors: Covariance of each record.
        measurement: Measurement of the nodes themselves; a node is observed if all channels are.
        noise_cov: Covariance (batch, node, channel, channel) of the noise, if that of the channels
            of a node is correlated; by default the measurement's own.
        near: Number of other nodes, or values, that one is predicted from.
        apart: Whether each channel of a node is predicted on its own, given the others of the same
            node too. Covariances between channels are then zero, and channels may lack values.

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
    mean = torch.zeros(batch, channels * nodes, dtype=torch.float64)
    cov = torch.zeros(batch, nodes, channels, channels, dtype=torch.float64)
    values, noise_std = measurement.values.cpu().double(), measurement.noise_std.cpu().double()
    if measurement.scale is not None:
        scale = measurement.scale.cpu().double()
        values, noise_std = values / scale, noise_std / scale
    if noise_cov is None:
        noise_cov = torch.diag_embed(noise_std.mT.square())
    values_of = torch.arange(nodes)[:, None] + nodes * torch.arange(channels)
    groups = (
        values_of.T.reshape(-1, 1) if apart else values_of
    )  # values (group, k) that are predicted
    for record, prior in enumerate(priors):
        seen = groups[measurement.mask[record].cpu().flatten()[groups].all(1)]
        node, channel = seen[:, 0] % nodes, seen // nodes
        noise = noise_cov[record, node[:, None, None], channel[:, :, None], channel[:, None]]
        places = prior.domain.positions[node].numpy()
        others = torch.from_numpy(nearest_others(places, np.arange(len(node)), near))
        for each in torch.arange(len(seen)).split(_TOGETHER) if len(seen) else ():
            own, given = seen[each], seen[others[each]].flatten(1)
            blocks = prior.covariance_blocks(torch.cat([own, given], 1)).double()
            k = own.shape[1]
            joint = blocks[:, k:, k:]
            joint.diagonal(dim1=1, dim2=2).mul_(1.0 + _JITTER)
            # the block diagonal (n, k, k, other) of the values of each other group
            square = joint.unflatten(1, (-1, k)).unflatten(3, (-1, k))
            square.diagonal(dim1=1, dim2=3).add_(noise[others[each]].movedim(1, -1))
            cross = blocks[:, :k, k:]
            gain = torch.linalg.solve(joint, cross.mT).mT
            y = values[record].flatten()[given][..., None]
            mean[record, own] = (gain @ y)[..., 0]
            left = blocks[:, :k, :k] - gain @ cross.mT
            at = node[each][:, None, None], channel[each][:, :, None], channel[each][:, None]
            cov[record, *at] = (left + left.mT) / 2.0
    return mean.unflatten(1, (channels, nodes)), cov
