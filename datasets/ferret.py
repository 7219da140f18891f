"""The Debian package ferret-datasets, which several data sets come from."""

from apsgeo.datasets.debian import DebianPackage

__all__ = ["COADS_FILE", "ETOPO_FILE", "NAVY_WINDS_FILE", "ferret"]

_FOLDER = "usr/share/ferret-vis/data"
COADS_FILE = f"{_FOLDER}/coads_climatology.cdf"
ETOPO_FILE = f"{_FOLDER}/etopo5.cdf"
NAVY_WINDS_FILE = f"{_FOLDER}/monthly_navy_winds.cdf"


def ferret(member: str, sha256: str) -> DebianPackage:
    """Return the package with one member's checksum."""
    return DebianPackage(package="ferret-datasets", version="7.6.0-5", sha256={member: sha256})
