"""Measurements of standardized values that are told by the observations around each, too."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from apsgeo.gaussian.left_out.nodes import left_out
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.independent import Independent
from apsgeo.measurement import Measurement, Normals

__all__ = ["refined"]


def refined(
    normals: Normals, measurement: Measurement, measured: Measurement, method: Any
) -> Measurement:
    """Return what `Normals.refined` makes of a measurement by the covariance of a method.

    Methods that have no covariance of nodes leave it as it is.

    Args:
        normals: Normals of the data.
        measurement: Measurement in the units of the data.
        measured: What `Normals.measure` made of it.
        method: Method that is to sample what was measured, or that a flow starts from.
    """
    if isinstance(method, Independent):
        method = method.local
    if isinstance(method, SeasonalPrior | GaussianPrior):
        method = VecchiaPrior(method)
    if not isinstance(method, VecchiaPrior):
        return measured

    def refine(given: Measurement, own: Measurement) -> Measurement:
        return normals.refined(given, own, partial(left_out, method.priors(own)))

    found = refine(measurement, measured)
    if measurement.around is not None and measured.around is not None:
        found = replace(found, around=refine(measurement.around, measured.around))
    return found
