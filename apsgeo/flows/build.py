"""Build a flow from its description, so that it can be saved as JSON and weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.flows.base import Base, GaussianBase, StandardNormalBase
from apsgeo.flows.context import SiteContext
from apsgeo.flows.coupling import ChannelMixing, ElementwiseMap, GlobalCoupling, LocalCoupling
from apsgeo.flows.elementwise import elementwise
from apsgeo.flows.flow import ConditionalFlow
from apsgeo.priors.seasonal import SeasonalPrior

__all__ = ["FlowSpec", "build_flow", "large_scale_patterns"]


@dataclass(frozen=True)
class FlowSpec:
    """The architecture of a conditional flow.

    Attributes:
        base: "gaussian", the anchor's posterior, or "normal", the paper's N(0, I).
        width, depth: Of the context U-Net.
        context: Features that it hands to the transforms.
        embedding: Features of each node that it learns.
        local: Local couplings, alternating between the two colours.
        patterns: Large-scale patterns of the global couplings, of the base "gaussian" only.
        coupling_width: Hidden channels of a local coupling.
        elementwise: What a coupling does to a number: "affine", or "spline", a monotone
            rational-quadratic spline and then an affine map, which can split modes.
        bins: Of a spline.
        mixing: Mix the channels before every pair of local couplings.
    """

    base: Literal["gaussian", "normal"] = "gaussian"
    width: int = 32
    depth: int = 4
    context: int = 16
    embedding: int = 8
    local: int = 2
    patterns: int = 32
    coupling_width: int = 8
    elementwise: Literal["affine", "spline"] = "affine"
    bins: int = 8
    mixing: bool = False

    def to_config(self) -> dict[str, Any]:
        """Return the attributes as a JSON-able dictionary."""
        return asdict(self)


def large_scale_patterns(prior: SeasonalPrior, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading EOFs as a basis (channel, node, count), and its weights (node,).

    The basis is orthonormal under the weights, the nodes' shares of the domain's area.
    """
    weights = prior.domain.areas / prior.domain.areas.sum()
    scaled = prior.eofs.loadings[..., :count].double() * weights.sqrt()[None, :, None]
    basis, _ = torch.linalg.qr(scaled.flatten(0, 1))
    return basis.unflatten(0, scaled.shape[:2]) / weights.sqrt()[None, :, None], weights


def build_flow(
    domain: Domain,
    channels: int,
    covariates: int,
    sites: Tensor,
    spec: FlowSpec,
    anchor: SeasonalPrior | None,
) -> ConditionalFlow:
    """Return an untrained flow: the identity on its base.

    Args:
        domain: Where the signals live.
        channels: Their channels.
        covariates: Number of known fields that the context network sees.
        sites: Fixed features of the nodes, (feature, node).
        spec: The architecture.
        anchor: The Gaussian prior; needed by the base "gaussian".
    """
    base: Base
    if spec.base == "gaussian":
        assert anchor is not None
        base = GaussianBase(anchor)
    else:
        base = StandardNormalBase(channels, domain.num_nodes)
    inputs = ConditionalFlow.inputs(channels, covariates)
    context = SiteContext(
        domain,
        inputs,
        spec.context,
        sites,
        embedding=spec.embedding,
        width=spec.width,
        depth=spec.depth,
    )
    maps = elementwise(spec.elementwise, spec.bins)
    transforms: list[nn.Module] = []
    if spec.patterns and spec.base == "gaussian" and anchor is not None:
        basis, weights = large_scale_patterns(anchor, spec.patterns)
        for parity in (True, False):
            transforms.append(
                GlobalCoupling(basis, weights, spec.context, parity=parity, elementwise=maps)
            )
    for index in range(spec.local):
        if spec.mixing and index % 2 == 0:
            transforms.append(ChannelMixing(channels))
        transforms.append(
            LocalCoupling(
                domain,
                channels,
                spec.context,
                parity=index % 2 == 0,
                width=spec.coupling_width,
                elementwise=maps,
            )
        )
    transforms.append(ElementwiseMap(domain, channels, spec.context, maps))
    return ConditionalFlow(base, context, transforms)
