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
    from apsgeo.domains import (
        GraphDomain,
        HEALPixDomain,
        ImageDomain,
        LatLonDomain,
        MeshDomain,
    )
    from apsgeo.domains.healpix_adapters import from_healpix_map, label_healpix, read_healpix
    from apsgeo.domains.image_adapters import from_image
    from apsgeo.domains.labelled import regrid
    from apsgeo.domains.layout import domain_of
    from apsgeo.domains.mesh_adapters import from_ugrid, from_ugrid_faces, read_mesh
    from apsgeo.field_prior import FieldPrior
    from apsgeo.flows.build import FlowSpec, SpectralSpec
    from apsgeo.models import load
    from apsgeo.operators import (
        Block,
        Compose,
        Downsample,
        GaussianBlur,
        GaussianBlurs,
        Identity,
        Mask,
        OneOf,
        PointSample,
        SpectralTruncation,
        Stack,
        Swath,
    )
    from apsgeo.posterior import Posterior
    from apsgeo.prior import fit_prior
    from apsgeo.priors.diffusion import DiffusionPrior
    from apsgeo.priors.gaussian import GaussianPrior
    from apsgeo.priors.scales import HybridScales, LocalisedScales
    from apsgeo.priors.spec import DenoiserSpec
    from apsgeo.xarray import impute

try:
    __version__ = version("apsgeo")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Block",
    "Compose",
    "DenoiserSpec",
    "DiffusionPrior",
    "Downsample",
    "FieldPrior",
    "FlowSpec",
    "GaussianBlur",
    "GaussianBlurs",
    "GaussianPrior",
    "GraphDomain",
    "HEALPixDomain",
    "HybridScales",
    "Identity",
    "ImageDomain",
    "LatLonDomain",
    "LocalisedScales",
    "Mask",
    "MeshDomain",
    "OneOf",
    "PointSample",
    "Posterior",
    "SpectralSpec",
    "SpectralTruncation",
    "Stack",
    "Swath",
    "__version__",
    "datasets",
    "distill",
    "domain_of",
    "errors",
    "fit_prior",
    "from_healpix_map",
    "from_image",
    "from_ugrid",
    "from_ugrid_faces",
    "impute",
    "label_healpix",
    "load",
    "read_healpix",
    "read_mesh",
    "regrid",
    "windows",
]

_NAMES_IN = {
    "channels": "windows",
    "distillation": "distill",
    "domains": "GraphDomain HEALPixDomain ImageDomain LatLonDomain MeshDomain",
    "domains.healpix_adapters": "from_healpix_map label_healpix read_healpix",
    "domains.image_adapters": "from_image",
    "domains.labelled": "regrid",
    "domains.layout": "domain_of",
    "domains.mesh_adapters": "from_ugrid from_ugrid_faces read_mesh",
    "field_prior": "FieldPrior",
    "flows.build": "FlowSpec SpectralSpec",
    "models": "load",
    "operators": "Block Compose Downsample GaussianBlur GaussianBlurs Identity Mask OneOf "
    "PointSample SpectralTruncation Stack Swath",
    "posterior": "Posterior",
    "prior": "fit_prior",
    "priors.diffusion": "DiffusionPrior",
    "priors.gaussian": "GaussianPrior",
    "priors.scales": "HybridScales LocalisedScales",
    "priors.spec": "DenoiserSpec",
    "xarray": "impute",
}
_HOME_OF = {name: module for module, names in _NAMES_IN.items() for name in names.split()}
_LAZY_MODULES = frozenset({"datasets", "errors"})


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return import_module(f"apsgeo.{name}")
    if name in _HOME_OF:
        return getattr(import_module(f"apsgeo.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'apsgeo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


import_module("apsgeo.xarray")
