"""Amortized posterior sampling on geophysical fields: gap-filled ensembles in one evaluation.

Importing it registers the accessor ``.aps`` of xarray's arrays and data sets. The other public
names are those of `apsgeo.public`, imported on first use, so that ``import apsgeo`` stays quick.
"""

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apsgeo import datasets as datasets
    from apsgeo import errors as errors
    from apsgeo.public import *  # noqa: F403

try:
    __version__ = version("apsgeo")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

_MODULES = ("datasets", "errors")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"apsgeo.{name}")
    if name == "__all__":
        return __dir__()
    # A module of ours is no public name: `from apsgeo import domains` goes on to import it.
    if name.startswith("_") or find_spec(f"apsgeo.{name}") is not None:
        raise AttributeError(f"module 'apsgeo' has no attribute {name!r}")
    if hasattr(names := import_module("apsgeo.public"), name):
        return getattr(names, name)
    raise _unknown(name)


def _unknown(name: str) -> AttributeError:
    close = get_close_matches(name, __dir__(), cutoff=0.5)
    perhaps = f"; did you mean {' or '.join(close)}?" if close else "."
    return import_module("apsgeo.errors").UnknownNameError(
        f"module 'apsgeo' has no attribute {name!r}{perhaps} dir(apsgeo) lists the public names"
    )


def __dir__() -> list[str]:
    names = vars(import_module("apsgeo.public"))
    return sorted({"__version__", *_MODULES, *(name for name in names if name[0] != "_")})


import_module("apsgeo.accessor")
