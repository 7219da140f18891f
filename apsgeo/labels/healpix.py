"""From healpy maps, FITS files and labelled arrays to signals on a `HEALPixDomain`, and back."""

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.domains.healpix.domain import HEALPixDomain
from apsgeo.errors import GridError, InputError

__all__ = [
    "GRID_MAPPING",
    "from_healpix_map",
    "grid_mapping_of",
    "healpix_coords",
    "healpix_dim",
    "healpix_domain_of",
    "is_healpix",
    "label_healpix",
    "onto_pixels",
    "read_healpix",
    "to_healpix_map",
]

GRID_MAPPING = "crs"  # the coordinate that `label_healpix` makes
UNSEEN = -1.6375e30  # healpy's value of pixels without one

Fields = TypeVar("Fields", xr.DataArray, xr.Dataset)

_UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError)  # of healpy
_SCHEMES = {"nested": True, "nest": True, "ring": False}


def from_healpix_map(maps: ArrayLike, nest: bool = False) -> tuple[HEALPixDomain, Tensor]:
    """Return the domain and the signal of full-sky maps, as healpy holds them.

    Args:
        maps: Values `(npix,)`, or `(C, npix)`; healpy's UNSEEN and masked pixels become NaN.
        nest: Whether pixels are in nested order; healpy's own default is rings.

    Returns:
        The domain of the full sky, and the signal `(C, npix)` in the precision of the maps.

    Raises:
        GridError: If no map has that number of pixels.
    """
    import healpy

    array = np.ma.filled(np.ma.asarray(np.ma.atleast_2d(maps), dtype=_float_of(maps)), np.nan)
    count = array.shape[-1]
    nside = math.isqrt(count // 12)
    if array.ndim != 2 or 12 * nside**2 != count:
        raise GridError(
            f"the map has shape {np.shape(maps)}; 12 nside² pixels with nside a power of two are "
            "needed, such as 49152 for nside 64; of a part of the sky, make HEALPixDomain(nside, "
            "nest, pixels)."
        )
    signal = np.where(healpy.mask_bad(array), np.nan, array)
    return HEALPixDomain(nside, nest), torch.from_numpy(signal)


def _float_of(values: ArrayLike) -> np.dtype[Any]:
    dtype = np.asanyarray(values).dtype.newbyteorder("=")  # FITS has big-endian numbers
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def to_healpix_map(domain: HEALPixDomain, signal: Tensor) -> NDArray[np.floating]:
    """Return the full-sky maps `(..., npix)`, in the domain's order, with UNSEEN where NaN is.

    Args:
        domain: Domain of the signal; pixels that it lacks are UNSEEN.
        signal: Values `(..., N)`.

    Raises:
        InputError: If the signal has not one value for each pixel of the domain.
    """
    import healpy

    if not signal.ndim or signal.shape[-1] != domain.num_nodes:
        raise InputError(
            f"the signal has shape {tuple(signal.shape)}, but {domain!r} has {domain.num_nodes} "
            "nodes, which the last axis should have."
        )
    values = signal.detach().cpu().numpy()
    out = np.full((*values.shape[:-1], 12 * domain.nside**2), healpy.UNSEEN, dtype=values.dtype)
    out[..., domain.pixels] = np.where(np.isnan(values), healpy.UNSEEN, values)
    return out


def read_healpix(
    path: str | PathLike[str], fields: int | tuple[int, ...] | None = None
) -> tuple[HEALPixDomain, Tensor]:
    """Read maps from a FITS file, in the order and with the pixels that it has.

    Args:
        path: The file, written by healpy or in the same layout. If it lists its pixels (explicit
            indexing), these make the domain.
        fields: Columns to read, all by default.

    Returns:
        The domain, and the signal `(C, N)` with NaN for UNSEEN.

    Raises:
        InputError: If the file is missing, or holds no HEALPix map.
    """
    import healpy
    from astropy.io import fits

    try:
        maps, header = healpy.read_map(path, field=fields, dtype=None, nest=None, h=True)
    except (*_UNREADABLE, fits.VerifyError) as error:
        raise InputError(
            f"{path} cannot be read as a HEALPix map ({error}); a FITS file as healpy.write_map "
            "writes it is needed."
        ) from error
    cards = {str(name).upper(): value for name, value in header}
    nest = str(cards.get("ORDERING", "RING")).strip().upper().startswith("NEST")
    domain, signal = from_healpix_map(maps, nest)
    if str(cards.get("INDXSCHM", "IMPLICIT")).strip().upper() != "EXPLICIT":
        return domain, signal
    with fits.open(path) as file:
        pixels = np.asarray(file[1].data.field(0)).ravel().astype(np.int64)
    return HEALPixDomain(domain.nside, nest, pixels), signal[:, torch.from_numpy(pixels)]


def grid_mapping_of(array: xr.DataArray) -> str | None:
    """Return the name of the coordinate that describes the grid, if labels name one (CF)."""
    name: str | None = array.encoding.get("grid_mapping", array.attrs.get("grid_mapping"))
    return name


def _marks(array: xr.DataArray) -> tuple[str | None, dict[str, Any]]:
    """Return the coordinate of cell ids, if there is one, and the attributes about the grid."""
    coordinate, marks = None, {}
    for name, variable in array.coords.items():
        attributes = variable.attrs
        is_index = attributes.get("standard_name") == "healpix_index"
        if is_index or attributes.get("grid_name") == "healpix" or name == "cell_ids":
            if variable.ndim == 1:
                coordinate = str(name)
            marks.update(attributes)
    mapping = grid_mapping_of(array)
    for name, variable in array.coords.items():
        if name == mapping or variable.attrs.get("grid_mapping_name") == "healpix":
            marks.update(variable.attrs)
    return coordinate, marks


def is_healpix(array: xr.DataArray) -> bool:
    """Tell whether labels say that the array has HEALPix cells: ids, a scheme, a grid mapping."""
    coordinate, marks = _marks(array)
    said = {"indexing_scheme", "healpix_order", "healpix_nside", "nest"} & set(marks)
    return coordinate is not None or bool(said) or marks.get("grid_mapping_name") == "healpix"


def healpix_dim(array: xr.DataArray) -> str:
    """Return the name of the dimension that runs over HEALPix cells.

    It is the dimension of the coordinate `cell_ids`, or of one with `grid_name="healpix"` (xdggs)
    or `standard_name="healpix_index"` (CF); else it is the one named `cell`, `cells`, `pixel` or
    `hpx`.

    Raises:
        GridError: If there is none.
    """
    coordinate, _ = _marks(array)
    if coordinate is not None:
        return str(array[coordinate].dims[0])
    for name in ("cell", "cells", "cell_ids", "pixel", "hpx"):
        if name in array.dims:
            return name
    raise GridError(
        f"no HEALPix dimension among {array.dims}; give the array a coordinate 'cell_ids' with the "
        "attributes grid_name='healpix', level and indexing_scheme ('nested' or 'ring')."
    )


def healpix_domain_of(array: xr.DataArray) -> HEALPixDomain:
    """Return the domain of an array of HEALPix cells.

    The coordinate of cell ids, or the grid mapping, has attributes that say scheme and resolution:
    `indexing_scheme` and `level` or their synonyms (xdggs), `indexing_scheme` and
    `refinement_level` (CF), or `healpix_order` and `healpix_nside`. Without cell ids the array is
    the full sky.

    Raises:
        GridError: If the scheme is not said, or is neither nested nor ring; the resolution is not
            said, and the array is not of the full sky; or cell ids do not fit it.
    """
    dim = healpix_dim(array)
    coordinate, marks = _marks(array)
    scheme = str(marks.get("indexing_scheme", marks.get("healpix_order", "unknown"))).lower()
    if "nest" in marks:
        scheme = "nested" if marks["nest"] else "ring"
    if scheme not in _SCHEMES:
        raise GridError(
            f"the indexing scheme is {scheme!r}; the attribute indexing_scheme must be 'nested' or "
            "'ring'. (A grid mapping is seen if the file is opened with decode_coords='all'.)"
        )
    nside = _nside(marks)
    if nside is None:
        nside = math.isqrt(array.sizes[dim] // 12)
        if 12 * nside**2 != array.sizes[dim]:
            raise GridError(
                f"the dimension {dim!r} has {array.sizes[dim]} cells, not those of a full sky, and "
                "no attribute level, refinement_level or nside says the resolution."
            )
    if coordinate is None:
        if array.sizes[dim] != 12 * nside**2:
            raise GridError(
                f"the dimension {dim!r} has {array.sizes[dim]} cells, but nside {nside} has "
                f"{12 * nside**2}; a part of the sky needs a coordinate 'cell_ids'."
            )
        return HEALPixDomain(nside, _SCHEMES[scheme])
    return HEALPixDomain(nside, _SCHEMES[scheme], array[coordinate].values)


def onto_pixels(array: Fields, domain: Domain | None) -> Fields:
    """Return fields on some pixels of a HEALPix domain as fields on all of it, NaN on the others.

    Lazily with dask. What is not labelled as a part of the domain comes back as it is.

    Args:
        array: Array or data set with cell ids.
        domain: Domain of the pixels that are wanted.
    """
    first = array if isinstance(array, xr.DataArray) else next(iter(array.data_vars.values()), None)
    if not isinstance(domain, HEALPixDomain) or first is None or _marks(first)[0] is None:
        return array
    own, dim = healpix_domain_of(first), healpix_dim(first)
    if own.nside != domain.nside or own.num_nodes >= domain.num_nodes:
        return array
    place = own.node_at(domain.positions.numpy())
    if int((place >= 0).sum()) < own.num_nodes:
        return array  # some are none of the domain's: the layout says so
    labels = healpix_coords(domain, dim)
    gone: list[Any] = [name for name, each in array.coords.items() if dim in each.dims]
    there = xr.DataArray(place >= 0, dims=dim)
    spread = array.isel({dim: place.clip(min=0)}).drop_vars([*gone, GRID_MAPPING], errors="ignore")
    spread = spread.where(there).assign_coords(labels).assign_attrs(array.attrs)
    if isinstance(spread, xr.DataArray):
        kept = {k: v for k, v in array.encoding.items() if k != "coordinates"}
        spread.encoding = kept | {"grid_mapping": GRID_MAPPING}
        spread = spread.transpose(*first.dims)
    return spread


def _nside(marks: Mapping[str, Any]) -> int | None:
    for name in ("level", "refinement_level", "resolution", "order", "depth"):
        if name in marks:
            return 2 ** int(marks[name])
    for name in ("nside", "healpix_nside"):
        if name in marks:
            return int(marks[name])
    return None


def label_healpix(
    domain: HEALPixDomain,
    values: ArrayLike,
    dims: tuple[str, ...] = ("cells",),
    coords: Mapping[str, Any] | None = None,
    **options: Any,
) -> xr.DataArray:
    """Label values `(..., N)` with cell ids, and with the metadata that xdggs and CF ask for.

    Args:
        domain: Domain of the cells.
        values: Values to label; their last axis runs over the cells.
        dims: Names of all axes, that of the cells last.
        coords: Further coordinates.
        options: Further arguments of `xarray.DataArray`, such as `name` and `attrs`.
    """
    if (shape := np.shape(values))[-1:] != (domain.num_nodes,) or len(shape) != len(dims):
        raise InputError(
            f"values have shape {shape}, and dims are {tuple(dims)}; expected as many dims, the "
            f"last one over the {domain.num_nodes} pixels of {domain!r}"
        )
    labels = {**(coords or {}), **healpix_coords(domain, dims[-1])}
    array = xr.DataArray(values, labels, dims, **options)
    array.encoding["grid_mapping"] = GRID_MAPPING
    return array


def healpix_coords(domain: HEALPixDomain, dim: str) -> dict[str, xr.Variable]:
    """Return the coordinate of cell ids along a dim, and the grid mapping."""
    scheme = "nested" if domain.nest else "ring"
    ids = xr.Variable(
        dim,
        domain.pixels,
        # no standard_name: xdggs refuses attributes that it does not know
        {"grid_name": "healpix", "level": domain.level, "indexing_scheme": scheme},
    )
    mapping = xr.Variable(
        (),
        np.int32(0),
        {
            "grid_mapping_name": "healpix",
            "refinement_level": domain.level,
            "indexing_scheme": scheme,
        },
    )
    return {"cell_ids": ids, GRID_MAPPING: mapping}
