"""One layout for what Copernicus and the public Zarr stores call ERA5."""

from functools import reduce

import numpy as np
import xarray as xr

from apsgeo.errors import InputError

__all__ = ["SHORT_NAMES", "standardize"]

_RENAMES = {
    "valid_time": "time",
    "latitude": "lat",
    "longitude": "lon",
    "pressure_level": "level",
    "isobaricInhPa": "level",
}

# The long names of the Climate Data Store and of the public Zarr stores: the names in its files.
SHORT_NAMES = {
    "2m_temperature": "t2m",
    "2m_dewpoint_temperature": "d2m",
    "10m_u_component_of_wind": "u10",
    "10m_v_component_of_wind": "v10",
    "mean_sea_level_pressure": "msl",
    "sea_surface_temperature": "sst",
    "surface_pressure": "sp",
    "total_precipitation": "tp",
    "total_column_water_vapour": "tcwv",
    "geopotential": "z",
    "temperature": "t",
    "u_component_of_wind": "u",
    "v_component_of_wind": "v",
    "specific_humidity": "q",
}


def standardize(dataset: xr.Dataset, origin: str) -> xr.Dataset:
    """Bring one file or store of ERA5 into the common layout, without reading its values.

    - Dimensions are ``time``, ``lat``, ``lon`` in this order, others (``level``) between the first
      two; `valid_time` and the long names of coordinates are renamed.
    - Latitude goes from north to south, longitude eastwards from 0°, below 360°.
    - The experiment version ``expver`` is resolved: where ERA5 (1) has no value, the preliminary
      ERA5T (5) is taken. Scalar coordinates are dropped.
    - Variables have their short names, such as ``t2m``.

    Args:
        dataset: Data set as opened from a CDS file of before or after 2024, or from Zarr.
        origin: File or address that it comes from, for messages.

    Raises:
        InputError: If it has no grid of latitudes and longitudes, or no time.
    """
    names = {*dataset.dims, *dataset.variables}
    # A dimension ``time`` beside ``valid_time`` is a forecast's start: its files are not analyses.
    if {"time", "valid_time"} <= {*dataset.dims}:
        raise InputError(
            f"{origin} has both time and valid_time as dimensions: it holds forecasts by start and "
            "step; give a file of the reanalysis"
        )
    if {"time", "valid_time"} <= names:
        dataset = dataset.drop_vars("time" if "valid_time" in dataset.dims else "valid_time")
    found = {*dataset.dims, *dataset.variables}
    dataset = dataset.rename({old: new for old, new in _RENAMES.items() if old in found})
    dataset = dataset.rename({n: SHORT_NAMES[n] for n in map(str, dataset) if n in SHORT_NAMES})
    _check_grid(dataset, origin)
    if "time" not in dataset.dims:
        dataset = dataset.expand_dims("time")
    dataset = _resolve_expver(dataset)
    keep = set(dataset.dims)
    dataset = dataset.drop_vars([name for name in dataset.coords if name not in keep])
    fields = [name for name, field in dataset.items() if {"time", "lat", "lon"} <= set(field.dims)]
    return _order(dataset[fields]).transpose("time", ..., "lat", "lon")


def _check_grid(dataset: xr.Dataset, origin: str) -> None:
    for name in ("lat", "lon"):
        if name not in dataset.dims or name not in dataset.coords:
            raise InputError(
                f"{origin} has no dimension latitude or longitude with coordinates (it has: "
                f"{', '.join(map(str, dataset.dims))}); give ERA5 on its regular grid"
            )
    if "time" not in dataset.coords:
        raise InputError(f"{origin} has neither time nor valid_time; give ERA5 with its dates")


def _resolve_expver(dataset: xr.Dataset) -> xr.Dataset:
    if "expver" in dataset.dims:
        versions = [
            dataset.isel(expver=int(number), drop=True)
            for number in np.argsort(dataset["expver"].values.astype(int))
        ]
        attrs = {name: field.attrs for name, field in dataset.items()}
        dataset = reduce(lambda first, second: first.fillna(second), versions)
        for name, field in dataset.items():
            field.attrs = attrs[name]
    return dataset.drop_vars("expver", errors="ignore")


def _order(dataset: xr.Dataset) -> xr.Dataset:
    lat = dataset["lat"].values.astype(np.float64)
    lon = np.mod(dataset["lon"].values.astype(np.float64), 360)
    if len(np.unique(lon)) < len(lon):
        raise InputError(
            "the longitudes repeat after 360°; take out the column that is there twice"
        )
    dataset = dataset.assign_coords(lat=lat, lon=lon)
    # Only slices: an index of single columns would tear dask's chunks apart.
    if lat[0] < lat[-1]:
        dataset = dataset.isel(lat=slice(None, None, -1))
    if start := int(np.argmin(lon)):
        parts = [dataset.isel(lon=slice(start, None)), dataset.isel(lon=slice(start))]
        dataset = xr.concat(parts, "lon", data_vars="minimal", coords="minimal", compat="override")
    if (np.diff(dataset["lat"]) >= 0).any() or (np.diff(dataset["lon"]) <= 0).any():
        raise InputError("latitudes or longitudes are in no order; give ERA5 on its regular grid")
    return dataset
