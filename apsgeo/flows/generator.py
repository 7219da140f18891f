"""A network that turns noise into members, without a density: the rival of flows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.flows.context import SiteContext, feature_count, measured_features
from apsgeo.flows.flow import Conditioning, Flow, log_share
from apsgeo.flows.start import Known, Start
from apsgeo.gaussian.draws import Base

__all__ = ["Generator"]

_SEED = 0  # of the signs by which noise at the nodes becomes a vector


@dataclass(frozen=True)
class _GeneratorConditioning(Conditioning):
    """What the network is told of a batch of measurements.

    Attributes:
        std: Standard deviation (batch, channel, node) of the base.
        features: Features (batch, feature, node) of the measurement.
    """

    std: Tensor
    features: Tensor


class Generator(Flow):
    r"""Members x = mean + std (r + U(y, r, P r)), where r is the base's standardized deviation.

    A U-Net has noise injected twice: r at every node, and a vector P r of random sums of it, which
    modulates all layers (Lang et al. 2024, *AIFS-CRPS*, arXiv 2412.15832; Price et al. 2025, *FGN*,
    arXiv 2506.10772). It is evaluated once for every member, where the networks of a flow are
    evaluated once for all. Trained by the fair CRPS, it is free to make any fields of its noise;
    but it is not inverted, and has no density.

    Args:
        domain: Domain of the signals.
        base: Method whose Gaussian draws the members start from.
        channels: Number of channels of the signals.
        sites: Fixed features (feature, node) of the nodes.
        width, depth: Width and depth of the U-Net.
        embedding: Number of features that the U-Net learns for each node.
        noise: Length of the vector of noise.
        known: Fields that the network sees beside the measurement, if any.
    """

    signs: Tensor

    def __init__(
        self,
        domain: Domain,
        base: Base,
        channels: int,
        sites: Tensor,
        *,
        width: int,
        depth: int,
        embedding: int,
        noise: int,
        known: Known | None = None,
    ) -> None:
        super().__init__(base, known)
        seeded = torch.Generator().manual_seed(_SEED)
        drawn = torch.randn(noise, channels * domain.num_nodes, generator=seeded)
        self.register_buffer("signs", drawn.sign() / drawn.shape[1] ** 0.5, persistent=False)
        self.context = SiteContext(
            domain,
            feature_count(channels, known, None) + channels,
            channels,
            sites,
            embedding=embedding,
            width=width,
            depth=depth,
            cond_dim=noise,
            zero_init=True,
        )

    def condition(self, start: Start) -> _GeneratorConditioning:
        """Gather what the network is told; it is evaluated for every member, in `push`."""
        measurement, mean, std = start.measurement, start.mean, start.std()
        features = measured_features(start, self.covariates(measurement), None)
        share = log_share(measurement).to(mean)
        return _GeneratorConditioning(mean, share, std, features)

    def _push(
        self, deviation: Tensor, conditioning: _GeneratorConditioning
    ) -> tuple[Tensor, Tensor]:
        members, batch = deviation.shape[:2]
        r = (deviation / conditioning.std).flatten(0, 1)
        told = conditioning.features.repeat(members, 1, 1)
        change = self.context(torch.cat([told, r], 1), r.flatten(1) @ self.signs.T)
        fields = conditioning.mean + conditioning.std * (r + change).unflatten(0, (members, batch))
        return fields, deviation.new_zeros(members, batch)

    def _pull(self, fields: Tensor, conditioning: _GeneratorConditioning) -> tuple[Tensor, Tensor]:
        raise InputError(
            "a generator draws members without a density; use a flow, such as CouplingSpec(), "
            "where log_prob, or an objective other than 'score', is needed."
        )
