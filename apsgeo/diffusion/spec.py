"""Build diffusion priors from specs, and rebuild them from saved states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from apsgeo.diffusion.function_space import FunctionSpacePrior
from apsgeo.diffusion.prior import COND_DIM, DiffusionPrior
from apsgeo.diffusion.riemannian.prior import RiemannianPrior
from apsgeo.diffusion.schedule import Schedule, VPSchedule
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.io import of_kind
from apsgeo.nn.unet import SIZES

__all__ = ["DenoiserSpec", "from_state"]

_DENOISERS: list[type[DiffusionPrior]] = [DiffusionPrior, FunctionSpacePrior]
"""Classes of diffusion priors, known by their `kind`, that of their network."""


def from_state(
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    domain: Domain,
    anchor: GaussianPrior | None = None,
) -> DiffusionPrior | RiemannianPrior:
    """Rebuild a diffusion prior of any kind from its `to_state`, its domain and its anchor.

    Raises:
        ModelError: If the kind is not known, an anchor is missing or not wanted, or tensors do not
            fit.
    """
    kinds: list[type[DiffusionPrior] | type[RiemannianPrior]] = [*_DENOISERS, RiemannianPrior]
    kind = of_kind(kinds, {"kind": "unet"} | config, "diffusion prior")
    return kind.from_state(config, tensors, domain, anchor)


@dataclass(frozen=True)
class DenoiserSpec:
    """The architecture of a diffusion prior.

    Attributes:
        size: Size of the network, a name in `apsgeo.nn.unet.SIZES`: about 0.3, 1, 3, 10 or 30
            million parameters.
        schedule: Noise schedule.
        levels: Number of levels of noise, each of which caches a factorization of the anchor.
        network: Kind of network, that of one of `_DENOISERS`: "unet", or "function-space",
            which can be evaluated at other resolutions (`FunctionSpacePrior.on`).

    Raises:
        InputError: If there is no such size or network.
    """

    size: Literal["tiny", "small", "medium", "large", "huge"] = "tiny"
    schedule: Schedule = field(default_factory=VPSchedule)
    levels: int = 20
    network: Literal["unet", "function-space"] = "unet"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InputError(f"size={self.size!r}; give one of {', '.join(SIZES)}")
        if self.network not in (known := [each.kind for each in _DENOISERS]):
            raise InputError(f"network={self.network!r}; give one of {', '.join(known)}")

    def build(
        self, domain: Domain, channels: int, anchor: GaussianPrior | None, static: Tensor
    ) -> DiffusionPrior:
        """Return an untrained prior, its weights drawn by torch's global generator.

        Args:
            domain: Domain that the signal lives on.
            channels: Number of channels of the signal.
            anchor: The Gaussian prior to correct, or None.
            static: Static fields (field, node) of order one, which the network sees.
        """
        denoiser = of_kind(_DENOISERS, {"kind": self.network}, "denoiser")
        inputs, outputs = denoiser.network_channels(channels, anchor)
        network = denoiser.network_class.sized(
            domain, inputs, outputs, self.size, cond_dim=COND_DIM, static=static
        )
        return denoiser(domain, channels, network, self.schedule, anchor, levels=self.levels)

    def to_config(self) -> dict[str, Any]:
        """Return the attributes as a JSON-able dictionary."""
        return {**vars(self), "schedule": self.schedule.to_config()}
