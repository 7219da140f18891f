"""Methods that trained posteriors are compared with.

A baseline is a `Method` that is made of a `FieldPrior`. To add one, write its file, and name what
makes it in `METHODS`: the shared tests, the NCEP table and `Posterior.of` then take it.
"""

from collections.abc import Callable

from apsgeo.baselines.dps import DPS
from apsgeo.baselines.gaussian import (
    climatology,
    eof_interpolation,
    hybrid,
    kriging,
    localised,
)
from apsgeo.field_prior import FieldPrior
from apsgeo.measurement import Method

__all__ = ["ITERATIVE", "METHODS"]

METHODS: dict[str, Callable[[FieldPrior], Method]] = {
    "climatology": climatology,
    "EOF interpolation": eof_interpolation,
    "kriging": kriging,
    "hybrid Gaussian": hybrid,
    "localised Gaussian": localised,
    "DPS": DPS.of,
}
"""Functions that make each method of a prior, by its name in tables."""

ITERATIVE = frozenset({"DPS"})
"""Names of methods that need a diffusion prior."""
