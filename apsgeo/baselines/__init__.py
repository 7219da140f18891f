"""Methods that trained posteriors are compared with.

A baseline is a `Method` that is made of a `FieldPrior`. To add one, write its file, and name what
makes it in `METHODS`, or in `SAMPLERS` if it iterates: the shared tests, the NCEP table and
`Posterior.of` then take it.
"""

from collections.abc import Callable

from apsgeo.baselines.ddnm import DDNM
from apsgeo.baselines.ddrm import DDRM
from apsgeo.baselines.diffpir import DiffPIR
from apsgeo.baselines.dineof import DINEOF
from apsgeo.baselines.dps import DPS
from apsgeo.baselines.gaussian import (
    climatology,
    eof_interpolation,
    hybrid,
    kriging,
    local,
    localised,
)
from apsgeo.baselines.inverse_distance import InverseDistance
from apsgeo.baselines.iterative import Iterative
from apsgeo.baselines.langevin import AnnealedLangevin
from apsgeo.baselines.mcg import MCG
from apsgeo.baselines.mmps import MMPS
from apsgeo.baselines.pigdm import PiGDM
from apsgeo.baselines.red_diff import REDDiff
from apsgeo.field_prior import FieldPrior
from apsgeo.measurement import Method

__all__ = ["METHODS", "SAMPLERS"]

_ITERATIVE: tuple[type[Iterative], ...] = (
    DPS,
    MCG,
    PiGDM,
    MMPS,
    DDNM,
    DDRM,
    DiffPIR,
    REDDiff,
    AnnealedLangevin,
)

SAMPLERS: dict[str, Callable[[FieldPrior], Method]] = {each.name: each.of for each in _ITERATIVE}
"""Iterative samplers of the diffusion prior, by their names in tables."""

METHODS: dict[str, Callable[[FieldPrior], Method]] = {
    "climatology": climatology,
    "inverse distance": InverseDistance.of,
    "DINEOF": DINEOF.of,
    "EOF interpolation": eof_interpolation,
    "kriging": kriging,
    "hybrid Gaussian": hybrid,
    "localised Gaussian": localised,
    "local Gaussian": local,
    **SAMPLERS,
}
"""Functions that make each method of a prior, by its name in tables."""
