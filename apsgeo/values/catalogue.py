"""Manifolds by name, by configuration, and of geomstats."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from apsgeo.errors import InputError
from apsgeo.values.flat import Euclidean
from apsgeo.values.hyperbolic import Hyperbolic
from apsgeo.values.manifold import Manifold
from apsgeo.values.product import Product, torus
from apsgeo.values.quotient import SYMMETRIES, Axes, Rotations
from apsgeo.values.spd import SPD
from apsgeo.values.sphere import Circle, Sphere

__all__ = ["NAMES", "manifold_from_config", "manifold_of"]

_KINDS: dict[str, type[Manifold]] = {
    each.kind: each for each in (Euclidean, Circle, Sphere, Axes, Rotations, SPD, Hyperbolic)
}

NAMES: dict[str, Callable[[], Manifold]] = {
    "circle": Circle,
    "sphere": lambda: Sphere(2),
    "axes": Axes,
    "rotations": Rotations,
    **{f"rotations/{name}": partial(Rotations, name) for name in SYMMETRIES},
    "spd": lambda: SPD(3),
    "euclidean": Euclidean,
    "torus": lambda: torus(2),
    "hyperbolic": Hyperbolic,
}
"""Manifolds that have a name."""


def manifold_of(given: str | Any) -> Manifold:
    """Return a manifold by its name, as it is, or like one of geomstats.

    Args:
        given: Name such as "circle", "sphere", "axes", "rotations", "rotations/cubic", "spd",
            "torus", "hyperbolic" or "euclidean"; a `Manifold`; or an object of the geomstats
            classes Hypersphere, SpecialOrthogonal, SPDMatrices, PoincareBall or Euclidean, of which
            class and size are read.

    Raises:
        InputError: If there is none like it.

    Examples:
        >>> manifold_of("rotations/cubic")
        rotations(symmetry='cubic')
    """
    if isinstance(given, Manifold):
        return given
    if isinstance(given, str) and given.lower() in NAMES:
        return NAMES[given.lower()]()
    kind, size = type(given).__name__, getattr(given, "n", None)
    dim = getattr(given, "dim", None)
    if kind == "Hypersphere" and isinstance(dim, int):
        return Circle(2.0 * math.pi) if dim == 1 else Sphere(dim)
    if kind.lstrip("_").startswith("SpecialOrthogonal") and size == 3:
        return Rotations()
    if kind == "SPDMatrices" and isinstance(size, int):
        named = type(getattr(given, "metric", None)).__name__
        return SPD(size, "affine-invariant" if "Affine" in named else "log-euclidean")
    if kind == "Euclidean" and isinstance(dim, int):
        return Euclidean(dim)
    if kind == "PoincareBall" and isinstance(dim, int):
        return Hyperbolic(dim)
    raise InputError(
        f"manifold={given!r}; give one of {', '.join(NAMES)}, a Manifold of apsgeo.values, or "
        "Hypersphere, SpecialOrthogonal(3), SPDMatrices, PoincareBall or Euclidean of geomstats"
    )


def manifold_from_config(config: dict[str, Any]) -> Manifold:
    """Rebuild a manifold from `Manifold.to_config`."""
    given = {name: value for name, value in config.items() if name != "kind"}
    if config["kind"] == Product.kind:
        return Product([manifold_from_config(part) for part in given["parts"]])
    return _KINDS[config["kind"]](**given)
