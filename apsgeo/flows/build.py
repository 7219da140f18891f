"""Build a flow from its description, so that it can be saved as JSON and weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.flows.context import SiteContext
from apsgeo.flows.coupling import ChannelMixing, ElementwiseMap, LocalCoupling
from apsgeo.flows.elementwise import elementwise
from apsgeo.flows.flow import ConditionalFlow, Flow
from apsgeo.flows.patterns import GlobalAutoregressive, GlobalCoupling, GlobalMap
from apsgeo.flows.roughness import Roughness
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.flows.start import Known
from apsgeo.gaussian.draws import Base, WhiteNoise
from apsgeo.gaussian.regimes import LowRankMixturePrior, fit_regimes
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.io import of_kind
from apsgeo.operators.linear import LinearMap

__all__ = [
    "SPECS",
    "FlowSpec",
    "Site",
    "Spec",
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
class Site:
    """Where a flow is built, and on what.

    Attributes:
        domain: Where the signals live.
        channels: Number of their channels.
        known: What the networks are told beside the measurement, if anything.
        features: Fixed features of the nodes, (feature, node).
        anchor: The Gaussian prior; needed by the base "anchor".
        regimes: What `Spec.regimes_in` found in the fields to learn from.
    """

    domain: Domain
    channels: int
    known: Known | None
    features: Tensor
    anchor: SeasonalPrior | None = None
    regimes: LowRankMixturePrior | None = None

    @property
    def needed_anchor(self) -> SeasonalPrior:
        """The anchor.

        Raises:
            InputError: If there is none.
        """
        if self.anchor is None:
            raise InputError("this flow starts from a Gaussian anchor; give one, or base='white'.")
        return self.anchor


class Spec(ABC):
    """The architecture of a flow: a frozen dataclass of what JSON can hold."""

    kind: ClassVar[str]
    base: Literal["anchor", "white"] = "anchor"

    @abstractmethod
    def build(self, site: Site) -> Flow:
        """Return an untrained flow: the identity on its base."""

    def regimes_in(self, domain: Domain, fields: Tensor) -> LowRankMixturePrior | None:
        """Return the mixture that the flow is to see of fields to learn from; most see none.

        Args:
            domain: Where the fields live.
            fields: Standardized anomalies (record, channel, node), of all seasons.

        Raises:
            InputError: If there are too few of them.
        """
        return None

    def check(self, linear: LinearMap) -> None:  # noqa: B027  # most flows take any
        """Check that the flow can be conditioned on measurements by a map.

        Raises:
            InputError: If it cannot.
        """

    def to_config(self) -> dict[str, Any]:
        """Return the attributes as a JSON-able dictionary."""
        return {"kind": self.kind} | asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Rebuild from `to_config`."""
        return cls(**{name: value for name, value in config.items() if name != "kind"})


@dataclass(frozen=True)
class FlowSpec(Spec):
    """A flow of local and global couplings, with a U-Net for its context.

    Attributes:
        base: "anchor", the posterior of the Gaussian anchor, or "white", the paper's N(0, I).
        width, depth: Of the context U-Net.
        context: Features that it hands to the transforms.
        embedding: Features of each node that it learns.
        local: Local couplings, alternating between the two colours.
        patterns: Large-scale patterns of the global couplings, of the base "anchor" only.
        coupling_width: Hidden channels of a local coupling.
        elementwise: What a coupling does to a number: "affine", or "spline", a monotone
            rational-quadratic spline and then an affine map, which can split modes.
        bins: Of a spline.
        mixing: Mix the channels before every pair of local couplings.
        global_maps: "coupling", where half of the patterns decide about the others, or
            "autoregressive", where each follows from all before it: draws cost the same, densities
            of given fields as many evaluations as there are patterns.
        scales: At so many scales, from that of neighbouring nodes on, the context sees how rough
            the base's mean is; for fields that are smooth here and rough there. See `Roughness`.

    Raises:
        InputError: If there are no such maps, or `scales` is negative.
    """

    base: Literal["anchor", "white"] = "anchor"
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
    global_maps: Literal["coupling", "autoregressive"] = "coupling"
    scales: int = 0

    def __post_init__(self) -> None:
        if self.global_maps not in _GLOBAL_MAPS:
            raise InputError(f"global_maps={self.global_maps!r}; give one of {[*_GLOBAL_MAPS]}.")
        if self.scales < 0:
            raise InputError(f"scales={self.scales}; give a number of at least 0.")

    kind: ClassVar[str] = "coupling"

    def build(self, site: Site) -> ConditionalFlow:
        """Return an untrained flow: the identity on its base."""
        base: Base = site.needed_anchor if self.base == "anchor" else WhiteNoise()
        roughness = Roughness(site.domain, self.scales) if self.scales else None
        inputs = ConditionalFlow.inputs(site.channels, site.known, roughness)
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
        if self.patterns and self.base == "anchor":
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
        return ConditionalFlow(base, context, transforms, roughness, site.known)


@dataclass(frozen=True)
class SpectralSpec(Spec):
    """A flow on the coefficients of the anchor's patterns, for posteriors of several modes.

    See `apsgeo.flows.spectral.SpectralFlow`; it starts from the anchor's posterior, and is for
    measurements of nodes.

    Attributes:
        patterns: The anchor's leading loadings, at most.
        candidates: Representers among the shifts.
        width: Of the networks.
        bins: Of the leading coefficient's spline.
        regimes: Components of a mixture of Gaussians whose posterior the networks see; 0 for none.
            It is fitted to the standardized anomalies to learn from, of all seasons together, on as
            many patterns (`apsgeo.gaussian.regimes.fit_regimes`): twice as many fields as patterns
            are needed for each. Unlike the anchor it is not cross-fitted: it has seen the fields
            whose measurements are learned from. Its parameters are few, and held-out fields decide
            which weights are kept.

    Raises:
        InputError: If one regime is asked for, which the anchor is already, or fewer than none.
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
        """Return a mixture fitted to fields to learn from, if it is asked for.

        Raises:
            InputError: If there are too few fields, or a regime is left with hardly any.
        """
        if not self.regimes:
            return None
        return fit_regimes(domain, fields, patterns=self.patterns, count=self.regimes)

    def build(self, site: Site) -> SpectralFlow:
        """Return an untrained flow: the identity on its base.

        Raises:
            InputError: If the anchor has fewer than two patterns, or the site other regimes.
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
                "not; use FlowSpec()."
            )


_FORMER_BASES = {"gaussian": "anchor", "normal": "white"}
"""What bases were called in models saved before version 0.2."""

SPECS: list[type[Spec]] = [FlowSpec, SpectralSpec]


def spec_from_config(config: dict[str, Any]) -> Spec:
    """Rebuild a spec from `Spec.to_config`; one without a kind, as was saved before, is a FlowSpec.

    Raises:
        ModelError: If its `kind` is not known here.
    """
    described = {"kind": FlowSpec.kind} | config
    if "base" in described:
        described["base"] = _FORMER_BASES.get(described["base"], described["base"])
    return of_kind(SPECS, described, "flow").from_config(described)


def large_scale_patterns(prior: SeasonalPrior, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading EOFs as a basis (channel, node, count), and its weights (node,).

    The basis is orthonormal under the weights, the nodes' shares of the domain's area.
    """
    weights = prior.domain.areas / prior.domain.areas.sum()
    scaled = prior.eofs.loadings[..., :count].double() * weights.sqrt()[None, :, None]
    basis, _ = torch.linalg.qr(scaled.flatten(0, 1))
    return basis.unflatten(0, scaled.shape[:2]) / weights.sqrt()[None, :, None], weights


def build_flow(site: Site, spec: Spec) -> Flow:
    """Return an untrained flow, the identity on its base, which knows its `spec`."""
    flow = spec.build(site)
    flow.spec = spec
    return flow
