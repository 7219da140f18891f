"""The architecture of a diffusion prior of values on a manifold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.errors import InputError
from apsgeo.nn.unet import SIZES
from apsgeo.values.brownian import Brownian
from apsgeo.values.flat import Euclidean
from apsgeo.values.spd import SPD
from apsgeo.values.values import Values

__all__ = ["RiemannianSpec"]


@dataclass(frozen=True)
class RiemannianSpec:
    """A diffusion on the manifold of the values itself (`RiemannianPrior`).

    In a flat manifold (numbers, tensors with the log-Euclidean metric) that is the diffusion of
    coordinates which `DenoiserSpec` makes, and so is what is fitted.

    Attributes:
        size: Size of the network, a name in `apsgeo.nn.unet.SIZES`.

    Raises:
        InputError: If there is no such size.
    """

    kind: ClassVar[str] = "riemannian"
    size: Literal["tiny", "small", "medium", "large", "huge"] = "tiny"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InputError(f"size={self.size!r}; give one of {', '.join(SIZES)}")

    @property
    def flat(self) -> DenoiserSpec:
        """The diffusion of coordinates with a network of the same size."""
        return DenoiserSpec(self.size)

    def on(self, values: Values | None) -> DenoiserSpec | RiemannianSpec:
        """Return what is fitted to values: the spec itself, or where they are flat `flat`.

        Raises:
            InputError: If the manifold has no heat kernel in closed form, or the chart keeps
                lengths that points do not have.
        """
        if values is None or isinstance(values.manifold, Euclidean):
            return self.flat
        if isinstance(values.manifold, SPD) and values.manifold.metric == "log-euclidean":
            return self.flat
        Brownian(values.manifold)  # refuses
        if values.chart == "projected":
            raise InputError(
                f"a diffusion on {values.manifold!r} is of directions, and the history has "
                "lengths, which a prior of vectors uses: pass manifold=Values(manifold, "
                "chart='tangent') or chart='embedded' to leave them out, or a DenoiserSpec"
            )
        return self

    def to_config(self) -> dict[str, Any]:
        """Return the attributes as a JSON-able dictionary."""
        return {"kind": self.kind, **vars(self)}
