"""Coarser grids for ERA5: blocks of cells, and HEALPix pixels; area means, lazily."""

from collections.abc import Callable

import numpy as np
import scipy.sparse
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import InputError

__all__ = ["coarsen", "to_healpix"]

Array = NDArray[np.floating]

LEAST_SHARE = 0.5


def coarsen(dataset: xr.Dataset, factor: int) -> xr.Dataset:
    """Average blocks of ``factor`` x ``factor`` cells by area.

    A row stands for the band half a step around its latitude, up to the pole. Where the rows
    themselves are a multiple of ``factor``, they are grouped. Otherwise, where the steps between
    them are, as on ERA5's own grid (721 rows with both poles, 720 steps), the new rows divide the
    same range, and a band that lies across an edge counts on both sides by its share.

    Missing values are left out; a mean is missing where less than half of its area has values.

    Args:
        dataset: Data set in the layout of `apsgeo.datasets.era5.layout.standardize`.
        factor: Number of cells to average along each side.

    Raises:
        InputError: If the grid cannot be divided by ``factor``.
    """
    if factor < 1:
        raise InputError(f"the coarsening factor is {factor}, expected 1 or more")
    if factor == 1:
        return dataset
    lat, lon = dataset["lat"].values, dataset["lon"].values
    if len(lon) % factor or min(len(lat) % factor, (len(lat) - 1) % factor):
        raise InputError(
            f"a grid of {len(lat)} x {len(lon)} cells cannot be divided by {factor}; for ERA5's "
            "own grid of 721 x 1440 take a divisor of 720"
        )
    rows, new_lat = _latitude_weights(lat, factor)
    new_lon = lon.reshape(-1, factor).mean(1)

    def total(values: Array) -> Array:
        blocks = values.reshape(*values.shape[:-1], len(new_lon), factor)
        return rows @ blocks.sum(-1)

    result = _average(dataset, total, {"lat": len(new_lat), "lon": len(new_lon)})
    return result.assign_coords(lat=new_lat, lon=new_lon)


def to_healpix(dataset: xr.Dataset, level: int) -> xr.Dataset:
    """Average onto HEALPix pixels of equal area, in nested order.

    The fields are interpolated linearly between the grid's points, at points that divide each
    pixel evenly and are twice as dense as the grid, and averaged over the pixel. Missing values
    are left out; a pixel is missing where less than half of it has values.

    Args:
        dataset: On a global grid, in the layout of `apsgeo.datasets.era5.layout.standardize`.
        level: HEALPix's order: 12 x 4^level pixels, nside 2^level.

    Returns:
        Fields ``(..., cells)`` with the coordinates ``cell_ids``, ``lat`` and ``lon``, as xdggs
        knows them.

    Raises:
        InputError: If the grid is not global.
    """
    lat, lon = dataset["lat"].values, dataset["lon"].values
    weights = healpix_weights(lat, lon, level)

    def total(values: Array) -> Array:
        flat = values.reshape(-1, weights.shape[1])
        return (weights @ flat.T).T.reshape(*values.shape[:-2], -1)

    result = _average(dataset, total, {"cells": weights.shape[0]})
    from healpy import pix2ang  # GPL-2, and only for HEALPix: imported where it is used

    cells = np.arange(weights.shape[0])
    east, north = pix2ang(2**level, cells, nest=True, lonlat=True)
    grid = {"grid_name": "healpix", "level": level, "indexing_scheme": "nested"}
    return result.assign_coords(
        cell_ids=("cells", cells, grid), lat=("cells", north), lon=("cells", east)
    )


def latitude_edges(lat: Array, count: int | None = None) -> Array:
    """Give the edges of the rows' bands [degrees], from north to south.

    Args:
        lat: The rows' latitudes, descending.
        count: Divide the range of ``lat`` into so many bands, instead of one about each row.
    """
    if count is not None:
        return np.linspace(lat[0], lat[-1], count + 1)
    middle = (lat[1:] + lat[:-1]) / 2
    first, last = lat[0] + (lat[0] - middle[0]), lat[-1] - (middle[-1] - lat[-1])
    return np.clip(np.concatenate([[first], middle, [last]]), -90, 90)


def healpix_weights(lat: Array, lon: Array, level: int) -> scipy.sparse.csr_matrix:
    """Give the matrix (pixel, grid cell) of `to_healpix`; each row sums to one.

    Raises:
        InputError: If ``level`` is negative, or the grid does not go around the globe and to
            within a step of the poles.
    """
    step = abs(lat[1] - lat[0])
    around = np.allclose(np.diff(lon), 360 / len(lon), rtol=0, atol=0.01 * step)
    if level < 0 or not around or lat[0] + step < 90 or lat[-1] - step > -90:
        raise InputError(
            f"HEALPix level {level} of a grid from {lat[0]}° to {lat[-1]}°, {lon[0]}° to "
            f"{lon[-1]}°: expected a level of 0 or more and a global regular grid"
        )
    from healpy import nside2resol, pix2ang

    finer = 0
    while np.degrees(nside2resol(2 ** (level + finer))) > step / 2 and finer < 8:
        finer += 1
    points = 4**finer
    east, north = pix2ang(2 ** (level + finer), np.arange(12 * 4**level * points), True, True)
    # Beyond the outermost rows, which are the poles or half a step away, the row itself.
    row = np.clip(np.interp(-north, -lat, np.arange(len(lat))), 0, len(lat) - 1)
    column = np.mod(east - lon[0], 360) * len(lon) / 360
    entries = []
    for down in (0, 1):
        for right in (0, 1):
            i, j = np.minimum(np.floor(row), len(lat) - 2), np.floor(column)
            weight = (row - i if down else i + 1 - row) * (column - j if right else j + 1 - column)
            cell = (i.astype(int) + down) * len(lon) + (j.astype(int) + right) % len(lon)
            entries.append((weight / points, cell))
    pixel = np.tile(np.arange(len(east)) // points, len(entries))
    weights, cells = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    shape = (12 * 4**level, len(lat) * len(lon))
    return scipy.sparse.csr_matrix((weights, (pixel, cells)), shape)


def _latitude_weights(lat: Array, factor: int) -> tuple[Array, Array]:
    """Give the areas (new row, row) that they share, and the new rows' latitudes."""
    edges = latitude_edges(lat)
    divided = latitude_edges(lat, (len(lat) - 1) // factor)
    new = divided if len(lat) % factor else edges[::factor]
    upper = np.minimum(edges[None, :-1], new[:-1, None])
    lower = np.maximum(edges[None, 1:], new[1:, None])
    shared = np.sin(np.radians(np.maximum(upper, lower))) - np.sin(np.radians(lower))
    return shared, (new[1:] + new[:-1]) / 2


def _average(
    dataset: xr.Dataset, total: Callable[[Array], Array], sizes: dict[str, int]
) -> xr.Dataset:
    """Average the fields over new cells of these ``sizes``, given their weighted sums."""

    def mean(block: NDArray[np.floating]) -> NDArray[np.floating]:
        valid = ~np.isnan(block)
        summed = total(np.where(valid, block, 0).astype(np.float64))
        share = total(valid.astype(np.float64))
        whole = total(np.ones(block.shape[-2:]))
        enough = share >= LEAST_SHARE * whole * (1 - 1e-9)  # rounding of the sum is far below
        return np.where(enough, summed / np.where(enough, share, 1), np.nan).astype(block.dtype)

    def apply(field: xr.DataArray) -> xr.DataArray:
        if field.dtype.kind != "f":
            field = field.astype(np.float32)
        return xr.apply_ufunc(
            mean,
            field.chunk(lat=-1, lon=-1) if field.chunks else field,
            input_core_dims=[["lat", "lon"]],
            output_core_dims=[list(sizes)],
            exclude_dims={"lat", "lon"},
            dask="parallelized",
            output_dtypes=[field.dtype],
            dask_gufunc_kwargs={"output_sizes": sizes},
            keep_attrs=True,
        )

    return dataset.map(apply, keep_attrs=True)
