"""Build flows from specs, so that they can be saved as JSON and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.flows.context import SiteContext
from apsgeo.flows.coupling import ChannelMixing, ElementwiseMap, LocalCoupling
from apsgeo.flows.elementwise import Affine, Spline, elementwise
from apsgeo.flows.flow import CouplingFlow, Flow
from apsgeo.flows.generator import Generator
from apsgeo.flows.multiscale.flow import GroupContext, MultiscaleFlow
from apsgeo.flows.multiscale.split import Split
from apsgeo.flows.patterns import GlobalAutoregressive, GlobalCoupling, GlobalMap
from apsgeo.flows.roughness import Roughness
from apsgeo.flows.spec import BASES, BaseName, FlowSpec, Site, check_base
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.gaussian.regimes import LowRankMixturePrior, fit_regimes
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.io import of_kind
from apsgeo.operators.linear import LinearMap

__all__ = [
    "CouplingSpec",
    "GeneratorSpec",
    "MultiscaleSpec",
    "SpectralSpec",
    "build_flow",
    "large_scale_patterns",
    "spec_from_config",
]


_GLOBAL_MAPS: dict[str, type[GlobalMap]] = {
    "coupling": GlobalCoupling,
    "autoregressive": GlobalAutoregressive,
}


@dataclass(frozen=True)
class CouplingSpec(FlowSpec):
    """A flow of node by node maps, and of local and global couplings, with a U-Net for its context.

    By default there are no couplings: the network corrects the mean and the spread of every node,
    and members keep the correlations of the base. That is learned fastest, since the score of
    normal marginals is known. Where fields are far from Gaussian, as images are, add couplings and
    splines.

    Attributes:
        base: "anchor", the exact posterior of the Gaussian anchor; "local", its approximation by
            near observations, of the same cost for any mask (`VecchiaPrior`); "adaptive", the same
            with a spread that each record tells by its observations (`OwnSpread`); or "white", the
            paper's N(0, I).
        width, depth: Width and depth of the context U-Net.
        context: Number of features that the U-Net hands to the transforms.
        embedding: Number of features that the U-Net learns for each node.
        local: Number of local couplings, which alternate between the two colours.
        patterns: Number of large-scale patterns of the global couplings; none of the base "white".
        coupling_width: Number of hidden channels of a local coupling.
        elementwise: Map of a single number: "affine", or "spline", a monotone rational-quadratic
            spline and then an affine map, which can split modes.
        bins: Number of bins of a spline.
        mixing: Whether the channels are mixed before every pair of local couplings.
        global_maps: "coupling", where half of the patterns decide about the others, or
            "autoregressive", where each follows from all before it. Draws cost the same; the
            density of a field then takes as many evaluations as there are patterns.
        roughness: Number of octaves, from neighbouring nodes on, at which the context sees how
            rough the base's mean is; for fields that are smooth here and rough there. See
            `apsgeo.flows.roughness.Roughness`.

    Raises:
        InputError: If there are no such maps, or `roughness` is negative.
    """

    base: BaseName = "adaptive"
    width: int = 16
    depth: int = 4
    context: int = 16
    embedding: int = 8
    local: int = 0
    patterns: int = 0
    coupling_width: int = 8
    elementwise: Literal["affine", "spline"] = "affine"
    bins: int = 8
    mixing: bool = False
    global_maps: Literal["coupling", "autoregressive"] = "coupling"
    roughness: int = 0

    def __post_init__(self) -> None:
        check_base(self.base)
        if self.global_maps not in _GLOBAL_MAPS:
            raise InputError(f"global_maps={self.global_maps!r}; give one of {[*_GLOBAL_MAPS]}.")
        if self.roughness < 0:
            raise InputError(f"roughness={self.roughness}; give a number of at least 0.")

    kind: ClassVar[str] = "coupling"

    def build(self, site: Site) -> CouplingFlow:
        """Return an untrained flow: the identity on its base."""
        base = BASES[self.base](site)
        roughness = Roughness(site.domain, self.roughness) if self.roughness else None
        inputs = CouplingFlow.inputs(site.channels, site.known, roughness)
        context = SiteContext(
            site.domain,
            inputs,
            self.context,
            site.features,
            embedding=self.embedding,
            width=self.width,
            depth=self.depth,
        )
        maps = elementwise(self.elementwise, self.bins)
        transforms: list[nn.Module] = []
        if self.patterns and self.base != "white":
            basis, weights = large_scale_patterns(site.needed_anchor, self.patterns)
            kind = _GLOBAL_MAPS[self.global_maps]
            for parity in (True, False):
                transforms.append(
                    kind(basis, weights, self.context, parity=parity, elementwise=maps)
                )
        for index in range(self.local):
            if self.mixing and index % 2 == 0:
                transforms.append(ChannelMixing(site.channels))
            transforms.append(
                LocalCoupling(
                    site.domain,
                    site.channels,
                    self.context,
                    parity=index % 2 == 0,
                    width=self.coupling_width,
                    elementwise=maps,
                )
            )
        transforms.append(ElementwiseMap(site.domain, site.channels, self.context, maps))
        return CouplingFlow(base, context, transforms, roughness, site.known)


@dataclass(frozen=True)
class SpectralSpec(FlowSpec):
    """A flow on the coefficients of the anchor's patterns, for posteriors with several modes.

    It starts from the anchor's posterior, and is for measurements of nodes. See
    `apsgeo.flows.spectral.SpectralFlow`.

    Attributes:
        patterns: Number of the anchor's leading loadings, at most.
        candidates: Number of representers among the candidate shifts.
        width: Width of the networks.
        bins: Number of bins of the leading coefficient's spline.
        regimes: Number of components of a mixture of Gaussians whose posterior the networks see; 0
            for no mixture. It is fitted to the anomalies to learn from, all seasons together, on as
            many patterns (`apsgeo.gaussian.regimes.fit_regimes`), and needs twice as many fields as
            patterns for each regime. Unlike the anchor it is not cross-fitted: it has seen the
            fields whose measurements the flow learns from. Its parameters are few, and held-out
            fields decide which weights are kept.

    Raises:
        InputError: If one regime is asked for, which the anchor is already, or fewer than 0.
    """

    patterns: int = 64
    candidates: int = 6
    width: int = 160
    bins: int = 16
    regimes: int = 0
    kind: ClassVar[str] = "spectral"

    def __post_init__(self) -> None:
        if self.regimes < 0 or self.regimes == 1:
            raise InputError(f"regimes={self.regimes}; give at least two, or 0 for none.")

    def regimes_in(self, domain: Domain, fields: Tensor) -> LowRankMixturePrior | None:
        """Return a mixture fitted to fields to learn from, if regimes are asked for.

        Raises:
            InputError: If there are too few fields, or a regime is left with hardly any.
        """
        if not self.regimes:
            return None
        return fit_regimes(domain, fields, patterns=self.patterns, count=self.regimes)

    def build(self, site: Site) -> SpectralFlow:
        """Return an untrained flow: the identity on its base.

        Raises:
            InputError: If the anchor has fewer than two patterns, or the site has other regimes.
        """
        given = 0 if site.regimes is None else len(site.regimes.components)
        if given != self.regimes:
            raise InputError(
                f"a flow of {self.regimes} regimes was given a mixture of {given}; pass what "
                "regimes_in(domain, fields) returns."
            )
        return SpectralFlow(
            site.needed_anchor,
            self.patterns,
            regimes=site.regimes,
            candidates=self.candidates,
            width=self.width,
            bins=self.bins,
            known=site.known,
        )

    def check(self, linear: LinearMap) -> None:
        """Check that the measurements are of nodes.

        Raises:
            InputError: If they are not.
        """
        if not linear.is_identity:
            raise InputError(
                f"a spectral flow is for measurements of nodes, such as Mask(), and {linear!r} is "
                "not; use CouplingSpec()."
            )


@dataclass(frozen=True)
class MultiscaleSpec(FlowSpec):
    """A flow from coarse to fine; see `apsgeo.flows.multiscale.flow.MultiscaleFlow`.

    Attributes:
        base: Base as in `CouplingSpec`, or "independent", the near observations' mean and standard
            deviation with independent noise: the levels then bring all correlations.
        width, depth: Width and depth of the context U-Net, which is on groups of nodes.
        context: Number of features that the U-Net hands to the levels.
        embedding: Number of features that the U-Net learns for each group.
        level_width: Width of the network of a level, which is evaluated for every member.
        steps: Number of steps in which the details of a level are drawn, at most.
        bins: Number of bins of the details' splines; 0 for affine maps.
        nodewise: Number of bins of the spline of each node's value, which comes last; 0 for none.
        limit: Bound of the log of the slopes of the affine maps.
        roughness: Number of octaves at which the context sees how rough the base's mean is.

    Raises:
        InputError: If there is no such base.
    """

    base: BaseName = "independent"
    width: int = 48
    depth: int = 3
    context: int = 48
    embedding: int = 8
    level_width: int = 32
    steps: int = 3
    bins: int = 0
    nodewise: int = 6
    limit: float = 6.0
    roughness: int = 0
    kind: ClassVar[str] = "multiscale"

    def __post_init__(self) -> None:
        check_base(self.base)

    def build(self, site: Site) -> MultiscaleFlow:
        """Return an untrained flow: the identity on its base.

        Raises:
            InputError: If the domain cannot be coarsened.
        """
        if not site.domain.can_coarsen:
            raise InputError(
                f"a multiscale flow needs levels, and {site.domain!r} is too small to be "
                "coarsened; use CouplingSpec()."
            )
        roughness = Roughness(site.domain, self.roughness) if self.roughness else None
        context = GroupContext(
            site.domain,
            Split(site.domain),
            MultiscaleFlow.inputs(site.channels, site.known, roughness),
            self.context,
            site.features,
            embedding=self.embedding,
            width=self.width,
            depth=self.depth,
        )
        last = Spline(self.nodewise, limit=self.limit) if self.nodewise else None
        return MultiscaleFlow(
            site.domain,
            BASES[self.base](site),
            site.channels,
            context,
            self.context,
            width=self.level_width,
            steps=self.steps,
            elementwise=Spline(self.bins, limit=self.limit) if self.bins else Affine(self.limit),
            nodewise=last,
            roughness=roughness,
            known=site.known,
        )


@dataclass(frozen=True)
class GeneratorSpec(FlowSpec):
    """A network that draws members without a density; see `apsgeo.flows.generator.Generator`.

    It is trained by ``distill(..., spec=GeneratorSpec(), score_scales=5)``, on the pairs that flows
    are trained on. In the short trainings that we tried (800 steps on 60 nodes) it did not find the
    correlations that white noise lacks, and held-out fields kept the untrained weights.

    Attributes:
        base: Base as in `CouplingSpec`; "independent" gives the network white noise, to which it
            adds all correlations.
        width, depth: Width and depth of the U-Net, which is evaluated for every member.
        embedding: Number of features that the U-Net learns for each node.
        noise: Length of the noise vector that modulates all layers.

    Raises:
        InputError: If there is no such base.
    """

    base: BaseName = "independent"
    width: int = 24
    depth: int = 4
    embedding: int = 8
    noise: int = 32
    kind: ClassVar[str] = "generator"

    def __post_init__(self) -> None:
        check_base(self.base)

    def build(self, site: Site) -> Generator:
        """Return an untrained network: the identity on its base."""
        return Generator(
            site.domain,
            BASES[self.base](site),
            site.channels,
            site.features,
            width=self.width,
            depth=self.depth,
            embedding=self.embedding,
            noise=self.noise,
            known=site.known,
        )


_FORMER_BASES = {"gaussian": "anchor", "normal": "white"}
"""Names of bases in models that were saved before version 0.2."""

_SPECS: list[type[FlowSpec]] = [CouplingSpec, MultiscaleSpec, SpectralSpec, GeneratorSpec]


def spec_from_config(config: dict[str, Any]) -> FlowSpec:
    """Rebuild a spec from `FlowSpec.to_config`; one without a kind is a `CouplingSpec`.

    Raises:
        ModelError: If its `kind` is not known here.
    """
    described = {"kind": CouplingSpec.kind} | config
    if "base" in described:
        described["base"] = _FORMER_BASES.get(described["base"], described["base"])
    if "scales" in described:  # the name of roughness before version 0.2
        described["roughness"] = described.pop("scales")
    return of_kind(_SPECS, described, "flow").from_config(described)


def large_scale_patterns(prior: SeasonalPrior, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading EOFs as a basis (channel, node, count), and weights (node,).

    The weights are the nodes' shares of the domain's area; under them the basis is orthonormal.
    """
    weights = prior.domain.areas / prior.domain.areas.sum()
    scaled = prior.eofs.loadings[..., :count].double() * weights.sqrt()[None, :, None]
    basis, _ = torch.linalg.qr(scaled.flatten(0, 1))
    return basis.unflatten(0, scaled.shape[:2]) / weights.sqrt()[None, :, None], weights


def build_flow(site: Site, spec: FlowSpec) -> Flow:
    """Return an untrained flow, the identity on its base; it knows its `spec`."""
    flow = spec.build(site)
    flow.spec = spec
    return flow
