"""How the built files look: CF metadata, order of the grid, compression."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["LICENSE_NOAA", "finish", "north_first"]

LICENSE_NOAA = "public domain (a work of the United States government)"

_COORDINATES: dict[str, dict[str, str]] = {
    "time": {"standard_name": "time", "axis": "T"},
    "lat": {
        "standard_name": "latitude",
        "long_name": "latitude",
        "units": "degrees_north",
        "axis": "Y",
    },
    "lon": {
        "standard_name": "longitude",
        "long_name": "longitude",
        "units": "degrees_east",
        "axis": "X",
    },
}


def finish(
    dataset: xr.Dataset, chunks: Mapping[str, int] | None = None, **attrs: str
) -> xr.Dataset:
    """Give a data set its global attributes, CF coordinates, and the encoding of its file.

    Args:
        dataset: The data; attributes of coordinates other than ``time``, ``lat``, ``lon`` are kept.
        chunks: The sizes of the file's chunks by dimension; whole dimensions by default.
        attrs: The global attributes, beside ``Conventions``: title, institution, source,
            references, license.
    """
    dataset = dataset.copy()
    dataset.attrs = {"Conventions": "CF-1.10", **attrs}
    dataset.encoding = {}
    for name, variable in dataset.variables.items():
        if name in _COORDINATES:
            kept = {key: value for key, value in variable.attrs.items() if key == "long_name"}
            variable.attrs = kept | _COORDINATES[str(name)]
            if variable.ndim == 2:  # of a patch or a curvilinear grid: no axis
                del variable.attrs["axis"]
        variable.encoding = _encoding(str(name), variable, chunks or {})
    return dataset


def north_first(dataset: xr.Dataset) -> xr.Dataset:
    """Put a global grid into the common order: from north to south, and eastwards from 0°."""
    lon = dataset["lon"] % 360
    return dataset.assign_coords(lon=lon).sortby("lon").sortby("lat", ascending=False)


def _encoding(name: str, variable: xr.Variable, chunks: Mapping[str, int]) -> dict[str, Any]:
    if name == "time":
        whole_days = bool((variable.values == variable.values.astype("datetime64[D]")).all())
        if whole_days:
            return {"units": "days since 1800-01-01", "dtype": "float64"}
        return {"units": "seconds since 1900-01-01", "dtype": "int64"}
    if variable.dtype.kind in "US":
        return {"dtype": "S1"}  # characters, which are smaller than strings of any length
    encoding: dict[str, Any] = {"_FillValue": None}
    lazy = variable.chunks is not None  # not computed to see if it has gaps
    if variable.dtype.kind == "f" and (lazy or bool(variable.isnull().any())):
        encoding["_FillValue"] = variable.dtype.type(np.nan)
    if variable.ndim > 1:
        sizes = variable.sizes.items()
        encoding |= {
            "zlib": True,
            "complevel": 4,
            "chunksizes": tuple(min(size, chunks.get(str(dim), size)) for dim, size in sizes),
        }
    return encoding
