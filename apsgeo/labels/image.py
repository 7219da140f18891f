"""From arrays of pixels, labelled or not, to signals on an `ImageDomain`, and back."""

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.image.domain import ImageDomain, same_coordinate
from apsgeo.errors import GridError, InputError
from apsgeo.labels.latlon import is_horizontal

__all__ = ["from_image", "image_domain_of", "pixel_dims", "pixels_against", "to_image"]

_ROWS = ("y", "row", "rows", "height", "h")
_COLUMNS = ("x", "col", "cols", "column", "columns", "width", "w")
_LENGTHS = ("m", "meter", "meters", "metre", "metres", "km", "kilometer", "kilometers", "kilometre")


def pixel_dims(array: xr.DataArray) -> tuple[str, str] | None:
    """Return the dims of rows and columns, if there is one of each by name."""
    rows = [str(dim) for dim in array.dims if str(dim).lower() in _ROWS]
    columns = [str(dim) for dim in array.dims if str(dim).lower() in _COLUMNS]
    return (rows[0], columns[0]) if len(rows) == len(columns) == 1 else None


def image_domain_of(array: xr.DataArray, given: str) -> ImageDomain | None:
    """Return the image that an array's dims of rows and columns say; None if it has none.

    Their coordinates are the domain's. Where these are not equally far apart, pixels differ in
    size.

    Raises:
        GridError: If pixels have latitudes and longitudes that are no rows and columns, so that
            they differ in area and shape, and no coordinates in a projection.
    """
    dims = pixel_dims(array)
    if dims is None:
        return None
    y, x = (_axis(array, dim) for dim in dims)
    sizes = array.sizes[dims[0]], array.sizes[dims[1]]
    units = [str(array[dim].attrs.get("units", "")).lower() for dim in dims if dim in array.coords]
    projected = len(units) == 2 and all(unit in _LENGTHS for unit in units)
    if any(unit.startswith("degree") for unit in units) or (
        not projected and _has_places(array, dims)
    ):
        raise GridError(
            f"{given} has the dims {dims} with latitudes and longitudes that vary along both (a "
            "curvilinear or rotated grid), or in degrees; its cells differ in area, and are no "
            "pixels. Regrid it to latitudes and longitudes, or pass "
            "domain=apsgeo.GraphDomain.from_latlon(lat.ravel(), lon.ravel(), areas=...); if all "
            f"cells may count alike, domain=apsgeo.ImageDomain{sizes}.",
            shell="cdo remapbil,GRID in.nc out.nc",
        )
    return ImageDomain(*sizes, _edges(y), _edges(x), y, x)


def pixels_against(
    domain: ImageDomain, array: xr.DataArray, dims: tuple[str, ...], *, given: str, wanted: str
) -> NDArray[np.int64] | None:
    """Return the place in an array of each pixel of a domain, by coordinates that both know.

    None where places are those of the domain. Rows and columns may run either way.

    Raises:
        GridError: If coordinates differ.
    """
    turned = []
    for dim, own in zip(dims, (domain.y, domain.x), strict=True):
        axis, order = _axis(array, dim), np.arange(array.sizes[dim])
        if own is not None and axis is not None and not same_coordinate(own, axis):
            if not same_coordinate(own, axis[::-1]):
                raise GridError(
                    f"{given} has {dim!r} from {axis[0]:g} to {axis[-1]:g}, and {wanted} from "
                    f"{own[0]:g} to {own[-1]:g}: these are other pixels. Select the same region; "
                    f"or drop the coordinates if places do not matter: .drop_vars({list(dims)})"
                )
            order = order[::-1]
        turned.append(order)
    place = (turned[0][:, None] * len(turned[1]) + turned[1]).ravel()
    return None if np.array_equal(place, np.arange(len(place))) else place


def _axis(array: xr.DataArray, dim: str) -> NDArray[np.float64] | None:
    """Return the coordinate of a dim, if it has numbers."""
    if dim not in array.coords or array[dim].dtype.kind not in "iuf":
        return None
    return np.asarray(array[dim].values, dtype=np.float64)


def _edges(axis: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Return edges midway between coordinates, in units of their median step, from 0 on.

    None where steps are equal, or do not keep one direction.
    """
    if axis is None or len(axis) < 2:
        return None
    steps = np.abs(np.diff(axis))
    one_way = (np.diff(axis) > 0).all() or (np.diff(axis) < 0).all()
    if not one_way or steps.max() <= 1.01 * steps.min():
        return None
    sizes = np.convolve(np.concatenate([steps[:1], steps, steps[-1:]]), [0.5, 0.5], "valid")
    return np.concatenate([[0.0], np.cumsum(sizes / np.median(steps))])


def _has_places(array: xr.DataArray, dims: tuple[str, str]) -> bool:
    """Tell whether some latitudes or longitudes vary along both dims."""
    return any(
        {*dims} <= {*each.dims} and is_horizontal(array, str(name))
        for name, each in array.coords.items()
    )


def from_image(image: Tensor | NDArray[np.generic]) -> tuple[ImageDomain, Tensor]:
    """Return the domain and the signal of an image.

    Integers become float32 without being scaled. A masked array's masked pixels become NaN.

    Args:
        image: Tensor `(H, W)`, `(C, H, W)` or `(B, C, H, W)`, as torch has it; or array `(H,
            W)`, `(H, W, C)` or `(B, H, W, C)`, as numpy and image files have it.

    Returns:
        The domain and the signal `(C, N)`, with C = 1 if there is no channel axis, or `(B, C, N)`.

    Raises:
        InputError: If the image has another number of axes, or complex or no numbers.
    """
    is_tensor = isinstance(image, Tensor)
    if not 2 <= image.ndim <= 4:
        order = "(H, W), (C, H, W) or (B, C, H, W)" if is_tensor else "(H, W[, C]) or (B, H, W, C)"
        raise InputError(f"the image has shape {tuple(image.shape)}; {order} is needed.")
    if isinstance(image, Tensor):
        pixels = image
    else:
        array = image
        if isinstance(array, np.ma.MaskedArray):
            exact = array.dtype.kind == "f"
            array = np.ma.filled(array if exact else array.astype(np.float32), np.nan)
        if array.dtype.kind not in "biuf":
            raise InputError(f"the image has dtype {array.dtype}; real numbers are needed.")
        pixels = torch.from_numpy(np.ascontiguousarray(array))
        if pixels.ndim > 2:
            pixels = pixels.movedim(-1, -3)
    if pixels.is_complex():
        raise InputError(f"the image has dtype {pixels.dtype}; real numbers are needed.")
    if pixels.ndim == 2:
        pixels = pixels[None]
    if not pixels.is_floating_point():
        pixels = pixels.float()
    return ImageDomain(*pixels.shape[-2:]), pixels.flatten(-2)


def to_image(domain: ImageDomain, signal: Tensor) -> Tensor:
    """Return the pixels `(..., H, W)` of a signal `(..., N)`.

    Raises:
        InputError: If the signal has not one value for each pixel.
    """
    if not signal.ndim or signal.shape[-1] != domain.num_nodes:
        raise InputError(
            f"the signal has shape {tuple(signal.shape)}, but {domain!r} has {domain.num_nodes} "
            "nodes, which the last axis should have."
        )
    return signal.unflatten(-1, domain.shape)
