"""Vecchia's approximation: a Gaussian whose nodes are drawn each given a few near ones."""

from apsgeo.gaussian.vecchia.ordering import Ordering
from apsgeo.gaussian.vecchia.posterior import VecchiaPosterior
from apsgeo.gaussian.vecchia.prior import VecchiaPrior

__all__ = ["Ordering", "VecchiaPosterior", "VecchiaPrior"]
