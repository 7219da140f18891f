"""What a flow is built from: a site, a base, and a spec that JSON can hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.flows.flow import Flow
from apsgeo.flows.start import Known
from apsgeo.gaussian.draws import Base, WhiteNoise
from apsgeo.gaussian.regimes import LowRankMixturePrior
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.independent import Independent
from apsgeo.gaussian.vecchia.own_spread import OwnSpread
from apsgeo.operators.linear import LinearMap

__all__ = ["BASES", "BaseName", "FlowSpec", "Site", "check_base"]

BaseName = Literal["adaptive", "anchor", "local", "independent", "white"]


@dataclass(frozen=True)
class Site:
    """Everything that a flow is built from, beside its spec.

    Attributes:
        domain: Domain of the signals.
        channels: Number of channels of the signals.
        known: Fields that the networks see beside the measurement, if any.
        features: Fixed features (feature, node) of the nodes.
        anchor: The Gaussian prior; needed by the base "anchor".
        regimes: Mixture that `FlowSpec.regimes_in` found in the fields to learn from.
        memory: How records follow each other in time, which the bases "adaptive" and "local" know.
    """

    domain: Domain
    channels: int
    known: Known | None
    features: Tensor
    anchor: SeasonalPrior | None = None
    regimes: LowRankMixturePrior | None = None
    memory: Memory | None = None

    @property
    def needed_anchor(self) -> SeasonalPrior:
        """The anchor.

        Raises:
            InputError: If there is none.
        """
        if self.anchor is None:
            raise InputError("this flow starts from a Gaussian anchor; give one, or base='white'.")
        return self.anchor


BASES: dict[BaseName, Callable[[Site], Base]] = {
    "adaptive": lambda site: VecchiaPrior(site.needed_anchor, site.memory, spread=OwnSpread()),
    "anchor": lambda site: site.needed_anchor,
    "local": lambda site: VecchiaPrior(site.needed_anchor, site.memory),
    "independent": lambda site: Independent(VecchiaPrior(site.needed_anchor)),
    "white": lambda site: WhiteNoise(),
}
"""Functions that make each base on a site."""


def check_base(base: str) -> None:
    """Check that there is a base of a name.

    Raises:
        InputError: If there is none.
    """
    if base not in (known := get_args(BaseName)):
        raise InputError(f"base={base!r}; give one of {[*known]}.")


class FlowSpec(ABC):
    """The architecture of a flow: a frozen dataclass whose attributes JSON can hold."""

    kind: ClassVar[str]
    base: BaseName = "anchor"

    @abstractmethod
    def build(self, site: Site) -> Flow:
        """Return an untrained flow: the identity on its base."""

    def regimes_in(self, domain: Domain, fields: Tensor) -> LowRankMixturePrior | None:
        """Return the mixture, fitted to fields to learn from, that the flow sees; None for most.

        Args:
            domain: Domain of the fields.
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
