"""Methods that trained posteriors are compared with.

A baseline is a `Method` that is made of a `FieldPrior`. To add one, write its file, and name what
makes it in `METHODS`, or in `SAMPLERS` if it iterates: the shared tests, the NCEP table and
`Posterior.of` then take it.
"""

from collections.abc import Callable

from apsgeo.baselines.dps import DPS
from apsgeo.baselines.gaussian import (
    climatology,
    eof_interpolation,
    hybrid,
    kriging,
    local,
    localised,
)
from apsgeo.field_prior import FieldPrior
from apsgeo.measurement import Method

__all__ = ["METHODS", "SAMPLERS"]

SAMPLERS: dict[str, Callable[[FieldPrior], Method]] = {
    "DPS": DPS.of,
}
"""Iterative samplers of the diffusion prior, by their names in tables."""

METHODS: dict[str, Callable[[FieldPrior], Method]] = {
    "climatology": climatology,
    "EOF interpolation": eof_interpolation,
    "kriging": kriging,
    "hybrid Gaussian": hybrid,
    "localised Gaussian": localised,
    "local Gaussian": local,
    **SAMPLERS,
}
"""Functions that make each method of a prior, by its name in tables."""
