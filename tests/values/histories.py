"""Small histories of values on every manifold, in every form."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from apsgeo.values.manifold import Manifold
from tests.cases import numpy_seeded

LAT, LON = np.linspace(60.0, -60.0, 4), np.arange(0.0, 360.0, 60.0)
RECORDS = 30


def waves(channels: int, seed: int = 0) -> np.ndarray:
    """Make smooth random fields (record, lat, lon, channel), of the size one."""
    rng = numpy_seeded(seed)
    lat, lon = np.deg2rad(LAT)[:, None], np.deg2rad(LON)
    patterns = np.stack(
        [
            np.cos(lat) * np.cos(lon),
            np.cos(lat) * np.sin(lon),
            np.sin(lat) + 0 * lon,
            1 + 0 * lat * lon,
        ]
    )
    amplitude = rng.standard_normal((RECORDS, channels, len(patterns)))
    fields = np.einsum("rcp,pij->rijc", amplitude, patterns)
    return fields + 0.1 * rng.standard_normal(fields.shape)


def around(manifold: Manifold, centre: Tensor, size: float, seed: int = 0) -> np.ndarray:
    """Make points (record, lat, lon, ambient) about a centre, smooth in space."""
    coordinates = torch.from_numpy(size * waves(manifold.dim, seed))
    frame = manifold.frame(centre)
    vectors = torch.einsum("ad,...d->...a", frame, coordinates)
    return manifold.exp(centre.expand(vectors.shape), vectors).numpy()


def labelled(values: np.ndarray, *dims: str, **attrs: object) -> xr.DataArray:
    """Label values (record, lat, lon, ...)."""
    array = xr.DataArray(values, dims=("record", "lat", "lon", *dims), name="given", attrs=attrs)
    return array.astype(np.float32).assign_coords(lat=LAT, lon=LON)
