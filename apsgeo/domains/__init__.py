"""Where a signal lives. A new kind of domain is one new file and its name in `DOMAINS`."""

from typing import Any

from apsgeo.domains.base import Domain
from apsgeo.domains.graph.domain import GraphDomain
from apsgeo.domains.healpix.domain import HEALPixDomain
from apsgeo.domains.image.domain import ImageDomain
from apsgeo.domains.latlon.domain import LatLonDomain
from apsgeo.domains.mesh import MeshDomain
from apsgeo.io import of_kind

__all__ = [
    "DOMAINS",
    "Domain",
    "GraphDomain",
    "HEALPixDomain",
    "ImageDomain",
    "LatLonDomain",
    "MeshDomain",
    "from_config",
]

DOMAINS: list[type[Domain]] = [LatLonDomain, ImageDomain, HEALPixDomain, MeshDomain, GraphDomain]


def from_config(config: dict[str, Any]) -> Domain:
    """Rebuild the domain that `Domain.to_config` described.

    Raises:
        ModelError: If the configuration's `kind` is not that of a domain known here.
    """
    values = {name: value for name, value in config.items() if name != "kind"}
    return of_kind(DOMAINS, config, "domain")(**values)
