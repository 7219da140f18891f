"""Amortized posterior sampling on geophysical fields: gap-filled ensembles in one evaluation.

Importing it registers the accessor ``.aps`` of `xarray.DataArray`. The other public names are
imported on first use, so that ``import apsgeo`` stays quick.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apsgeo import datasets, errors
    from apsgeo.distillation import distill
    from apsgeo.domains import LatLonDomain
    from apsgeo.models import load
    from apsgeo.operators import Mask
    from apsgeo.posterior import Posterior
    from apsgeo.prior import FieldPrior, fit_prior
    from apsgeo.priors.diffusion import DiffusionPrior
    from apsgeo.priors.gaussian import GaussianPrior
    from apsgeo.xarray import impute

try:
    __version__ = version("apsgeo")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "DiffusionPrior",
    "FieldPrior",
    "GaussianPrior",
    "LatLonDomain",
    "Mask",
    "Posterior",
    "__version__",
    "datasets",
    "distill",
    "errors",
    "fit_prior",
    "impute",
    "load",
]

_HOME_OF = {
    "DiffusionPrior": "apsgeo.priors.diffusion",
    "FieldPrior": "apsgeo.prior",
    "GaussianPrior": "apsgeo.priors.gaussian",
    "LatLonDomain": "apsgeo.domains",
    "Mask": "apsgeo.operators",
    "Posterior": "apsgeo.posterior",
    "distill": "apsgeo.distillation",
    "fit_prior": "apsgeo.prior",
    "impute": "apsgeo.xarray",
    "load": "apsgeo.models",
}
_LAZY_MODULES = frozenset({"datasets", "errors"})


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return import_module(f"apsgeo.{name}")
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'apsgeo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


import_module("apsgeo.xarray")
