"""The dims of a labelled array that run over the nodes of a domain, and their order."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial, singledispatch
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from apsgeo.domains.base import Domain
from apsgeo.domains.graph.domain import GraphDomain
from apsgeo.domains.healpix.domain import HEALPixDomain
from apsgeo.domains.image.domain import ImageDomain
from apsgeo.domains.latlon.domain import SAME_DEGREES, LatLonDomain
from apsgeo.errors import GridError
from apsgeo.labels.healpix import healpix_dim, healpix_domain_of, is_healpix
from apsgeo.labels.image import image_domain_of, pixel_dims, pixels_against
from apsgeo.labels.latlon import (
    coordinate_of,
    has_horizontal_dims,
    horizontal_dims,
    latlon_domain_of,
    rows_and_columns,
)
from apsgeo.labels.times import record_dims

__all__ = ["Layout", "domain_of", "layout_of"]

_CHANNELS = ("channel", "channels", "band", "rgb", "variable", "lag")
_NEAREST = 6  # other stations that each station is joined to

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layout:
    """The dims of a labelled array that run over the nodes of a domain, and their order.

    A place is the number of an element along these dims, counted with the last dim fastest.

    Attributes:
        domain: The domain.
        dims: Names of the dims, in the order in which they are flattened.
        shape: Sizes of the dims.
        order: Place `(N,)` of each node; None where node i is in place i.
        channel: Name of the dim of channels (channel, band, rgb, variable or lag), or None for a
            field with one value at each node.
    """

    domain: Domain
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    order: Index | None = None
    channel: str | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """The dims of one record: channels, if there are any, and `dims`."""
        return self.dims if self.channel is None else (self.channel, *self.dims)

    def ordered(self, array: xr.DataArray) -> xr.DataArray:
        """Return the array with the dim of records, if it has one, first and `cells` last.

        Raises:
            GridError: If the array has more than one other dim.
        """
        records = [str(dim) for dim in array.dims if dim not in self.cells]
        if len(records) > 1:
            raise GridError(
                f"the array has dims {array.dims}; expected a time dimension and "
                f"{', '.join(map(repr, self.cells))}. {_mended(array, records)}",
                shell="cdo sellevidx,1 in.nc out.nc, or ncks -d DIM,0 in.nc out.nc",
            )
        return array.transpose(*records, *self.cells)

    def channel_nodes(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values `(..., *cells)` as `(..., channel, N)`, one channel if there is no dim."""
        nodes = self.nodes(values)
        return nodes[..., None, :] if self.channel is None else nodes

    def channel_places(self, values: NDArray[Any]) -> NDArray[Any]:
        """Undo `channel_nodes`."""
        return self.places(values[..., 0, :] if self.channel is None else values)

    def nodes(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values `(..., *shape)` at places as values `(..., N)` at nodes."""
        flat = values.reshape(*values.shape[: values.ndim - len(self.shape)], math.prod(self.shape))
        return flat if self.order is None else flat[..., self.order]

    def places(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values `(..., N)` at nodes as values `(..., *shape)` at places."""
        flat = values
        if self.order is not None:
            flat = np.empty_like(values)
            flat[..., self.order] = values
        return flat.reshape(*values.shape[:-1], *self.shape)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weight `(N,)` of each node in a score: cos(latitude) on a grid, elsewhere its area."""
        return _weights(self.domain)


def layout_of(
    array: xr.DataArray,
    domain: Domain | None = None,
    *,
    given: str = "the array",
    wanted: str = "the request",
) -> Layout:
    """Find the nodes of a domain in a labelled array.

    Without a domain, labels must say which it is: dims of latitude and longitude (CF), HEALPix
    cells (xdggs, CF), pixels with the dims y and x or the like, or stations with coordinates of
    latitude and longitude along one dim, each joined to its six nearest.

    With a domain, the array must be on it. Latitude may run the other way, and HEALPix cells may be
    in another order or numbered by the other scheme. The nodes of any other domain on the sphere
    may be in another order, if the array has their latitudes and longitudes. Without these, nodes
    run in the domain's order along the dim that has as many elements, or along the last dims whose
    sizes multiply to that number.

    Args:
        array: The data. Its dims of dates are never ones of nodes.
        domain: Domain of the array, if known.
        given: Name of the array in messages.
        wanted: Name in messages of what the array is for.

    Raises:
        GridError: If the labels do not say the domain, or say another.
    """
    if domain is not None:
        return _with_channel(_on(domain, array, given, wanted), array)
    for read in (
        _read_latlon,
        _read_healpix,
        partial(image_domain_of, given=given),
        _read_stations,
    ):
        found = read(array)
        if found is not None:
            return _with_channel(_on(found, array, given, wanted), array)
    raise GridError(
        f"{given} has dims {_sizes(array)}, and nothing says where they are; expected latitude and "
        "longitude, HEALPix 'cell_ids' with the attributes level and indexing_scheme, pixels "
        "('y', 'x'), or stations with the coordinates 'lat' and 'lon'. For a mesh or anything else "
        "pass domain=, such as apsgeo.read_mesh(path).domain, or apsgeo.GraphDomain.from_latlon of "
        "the cells of a curvilinear or rotated grid.",
        shell="--mesh FILE; or cdo remapbil,GRID in.nc out.nc",
    )


def domain_of(array: xr.DataArray) -> Domain:
    """Return the domain that an array's labels say it is on; see `layout_of`.

    Raises:
        GridError: If the labels say none.
    """
    return layout_of(array).domain


def _read_latlon(array: xr.DataArray) -> LatLonDomain | None:
    return latlon_domain_of(array) if has_horizontal_dims(array) else None


def _read_healpix(array: xr.DataArray) -> HEALPixDomain | None:
    return healpix_domain_of(array) if is_healpix(array) else None


def _read_stations(array: xr.DataArray) -> GraphDomain | None:
    lat, lon = (coordinate_of(array, standard) for standard in ("latitude", "longitude"))
    if lat is None or lon is None or lat.ndim != 1 or lat.dims != lon.dims:
        return None
    return GraphDomain.from_latlon(lat.values, lon.values, k=min(_NEAREST, lat.size - 1))


def _with_channel(layout: Layout, array: xr.DataArray) -> Layout:
    found = [str(dim) for dim in array.dims if str(dim).lower() in _CHANNELS]
    channels = [dim for dim in found if dim not in layout.dims]
    return replace(layout, channel=channels[0]) if len(channels) == 1 else layout


@singledispatch
def _on(domain: Any, array: xr.DataArray, given: str, wanted: str) -> Layout:
    raise GridError(
        f"{given} has dims {_sizes(array)}, and {wanted} is for {domain!r}, which is no Domain."
    )


@_on.register
def _(domain: LatLonDomain, array: xr.DataArray, given: str, wanted: str) -> Layout:
    dims = horizontal_dims(array)
    rows, columns = rows_and_columns(array, domain, given=given, wanted=wanted)
    place = (rows[:, None] * len(columns) + columns).ravel()
    same = np.array_equal(place, np.arange(domain.num_nodes))
    return Layout(domain, dims, domain.shape, None if same else place)


@_on.register
def _(domain: HEALPixDomain, array: xr.DataArray, given: str, wanted: str) -> Layout:
    if not is_healpix(array):
        return _by_size(domain, array, given, wanted, most=1)
    dim, own = healpix_dim(array), healpix_domain_of(array)
    if own.nside != domain.nside:
        raise GridError(
            f"{given} is on {own!r}, and {wanted} on {domain!r}; regrid one to the other, or fit a "
            "model at this resolution."
        )
    place = own.node_at(domain.positions.numpy())  # -1 for pixels that the array lacks
    absent, beyond = int((place < 0).sum()), own.num_nodes - int((place >= 0).sum())
    if absent or beyond:
        raise GridError(
            f"{given} is on {own!r}, and {wanted} on {domain!r}: it lacks {absent} of the pixels "
            f"and has {beyond} others; select the same ones, with NaN where nothing is known."
        )
    same = np.array_equal(place, np.arange(domain.num_nodes))
    return Layout(domain, (dim,), (domain.num_nodes,), None if same else place)


@_on.register
def _(domain: ImageDomain, array: xr.DataArray, given: str, wanted: str) -> Layout:
    dims = pixel_dims(array) or _node_dims(array)[-2:]
    if tuple(array.sizes[dim] for dim in dims) != domain.shape:
        raise GridError(
            f"{given} has dims {_sizes(array)}, and {wanted} is for {domain!r}; expected the dims "
            f"('y', 'x') of the sizes {domain.shape}, or these as the last two."
        )
    order = pixels_against(domain, array, dims, given=given, wanted=wanted)
    return Layout(domain, dims, domain.shape, order)


@_on.register
def _(domain: Domain, array: xr.DataArray, given: str, wanted: str) -> Layout:
    return _by_size(domain, array, given, wanted)


def _by_size(
    domain: Domain, array: xr.DataArray, given: str, wanted: str, most: int | None = None
) -> Layout:
    """Find the dims of as many places as there are nodes.

    The dims of latitudes and longitudes are tried first, then one dim, then the last `most`.
    """
    dims, count = _node_dims(array), domain.num_nodes
    alone = [(dim,) for dim in dims if array.sizes[dim] == count]
    last = [dims[start:] for start in range(len(dims)) if len(dims) - start <= (most or len(dims))]
    placed = _placed_dims(array)
    for chosen in [placed] if placed else alone[::-1] + last:
        shape = tuple(array.sizes[dim] for dim in chosen)
        if math.prod(shape) == count:
            return Layout(domain, chosen, shape, _by_place(domain, array, chosen, given, wanted))
    raise GridError(
        f"{given} has dims {_sizes(array)}, and {wanted} is for {domain!r}; expected one dim of "
        f"{count} nodes, in the domain's order. Select these nodes, regrid the data, or fit a "
        "model on its own domain."
    )


def _placed_dims(array: xr.DataArray) -> tuple[str, ...]:
    """Return the dims along which there are latitudes and longitudes; none where time is one."""
    lat, lon = (coordinate_of(array, standard) for standard in ("latitude", "longitude"))
    if lat is None or lon is None:
        return ()
    along = {*lat.dims, *lon.dims}
    of_records = along.intersection(record_dims(array))
    return () if of_records else tuple(str(dim) for dim in array.dims if dim in along)


def _by_place(
    domain: Domain, array: xr.DataArray, dims: tuple[str, ...], given: str, wanted: str
) -> Index | None:
    """Return the place of each node by latitude and longitude.

    None if the domain is not on the unit sphere, or the array has no such coordinates.
    """
    lat, lon = (coordinate_of(array, standard) for standard in ("latitude", "longitude"))
    nodes = domain.positions.numpy()
    if lat is None or lon is None or _placed_dims(array) != dims:
        return None
    if nodes.shape[1] != 3 or not np.allclose(np.linalg.norm(nodes, axis=1), 1.0):
        return None
    phi, lam = (
        np.deg2rad(axis.broadcast_like(array.isel(_first(array, dims))).transpose(*dims).values)
        for axis in (lat, lon)
    )
    own = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], -1)
    own = own.reshape(-1, 3).astype(np.float64)
    place = np.arange(len(own))
    distance = np.linalg.norm(own - nodes, axis=1)
    if np.isfinite(own).all() and distance.max() > np.deg2rad(SAME_DEGREES):
        distance, place = cKDTree(own).query(nodes)
    if not (distance < np.deg2rad(SAME_DEGREES)).all() or len(np.unique(place)) < len(place):
        raise GridError(
            f"{given} has latitudes and longitudes that are not those of the nodes of {domain!r}, "
            f"for which {wanted} is: nodes are up to {np.rad2deg(np.nanmax(distance)):.3g} degrees "
            "from the nearest; select the same nodes."
        )
    return None if np.array_equal(place, np.arange(len(place))) else place


@singledispatch
def _weights(domain: Domain) -> NDArray[np.float64]:
    return domain.areas.numpy()


@_weights.register
def _(domain: LatLonDomain) -> NDArray[np.float64]:
    cosine = np.cos(np.deg2rad(domain.lat)).clip(min=0.0)
    return np.repeat(cosine, domain.shape[1])


def _first(array: xr.DataArray, dims: tuple[str, ...]) -> dict[Any, int]:
    return {dim: 0 for dim in array.dims if dim not in dims}


def _node_dims(array: xr.DataArray) -> tuple[str, ...]:
    records = record_dims(array)
    named = (str(dim) for dim in array.dims if str(dim).lower() not in _CHANNELS)
    return tuple(dim for dim in named if dim not in records)


def _mended(array: xr.DataArray, records: list[str]) -> str:
    """Tell what to do about more dims than one of records."""
    if "expver" in array.dims:
        return (
            "ERA5 and its preliminary version lie along 'expver', one of them NaN at each time: "
            "join them, .max('expver')."
        )
    dated = [dim for dim in record_dims(array) if dim in records]
    others = [dim for dim in records if dim not in dated]
    if len(dated) == 1 and len(others) == 1:
        return (
            f"Select one along {others[0]!r} first, .isel({others[0]}=0); to learn from all, as of "
            f"the members of an ensemble, stack them: .stack(record=({others[0]!r}, "
            f"{dated[0]!r}))."
        )
    return "Select one level or member first."


def _sizes(array: xr.DataArray) -> str:
    return "(" + ", ".join(f"{dim}: {size}" for dim, size in array.sizes.items()) + ")"
