"""Build digits-on-bunny and fields-on-bunny; the card beside this file says what they are."""

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.datasets.bunny.recipe import BUNNY
from apsgeo.datasets.cf import finish
from apsgeo.datasets.derived import derived
from apsgeo.datasets.mesh import ugrid
from apsgeo.datasets.mnist.recipe import MNIST
from apsgeo.datasets.recipe import Recipe

__all__ = ["DIGITS_ON_BUNNY", "FIELDS_ON_BUNNY"]

_COUNTS = {"train": 10_000, "test": 2_000}  # of MNIST's 60 000 and 10 000
_FIELDS = 1_000
_EIGENFUNCTIONS = 256
_RANGE = 0.25  # of the root of the surface's area
_SEED = 0


def picture_coordinates(
    positions: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Return where nodes lie on a picture that the mesh's view along the z axis fills.

    The picture's axes have one scale each; their middles are those of the mesh's extent.

    Args:
        positions: Positions (node, 3): x to the right, y upwards, z towards the viewer.
        shape: Rows and columns of the picture.

    Returns:
        Row and column of shape (node, 2), from 0 to ``shape``.
    """
    x, y = positions[:, 0], positions[:, 1]
    side = max(np.ptp(x), np.ptp(y))
    right = (x - (x.min() + x.max()) / 2) / side + 0.5
    down = ((y.min() + y.max()) / 2 - y) / side + 0.5
    return np.stack([down, right], 1).clip(0, 1) * shape


def build_digits(raw: list[Path]) -> xr.Dataset:
    """Lay the digits onto the bunny from the front, through to its back."""
    from apsgeo.domains import ImageDomain
    from apsgeo.domains.interpolation import interpolation

    bunny = _mesh(raw[0])
    with xr.open_dataset(raw[1], engine="netcdf4") as file:
        split = file["split"].values
        chosen = [np.flatnonzero(split == name)[:count] for name, count in _COUNTS.items()]
        digits = file.isel(sample=np.concatenate(chosen)).load()
    images = digits["image"].values
    coordinates = picture_coordinates(bunny["position"].values, images.shape[1:])
    weights = interpolation(ImageDomain(*images.shape[1:]), coordinates)
    values = (weights @ images.reshape(len(images), -1).T).T
    attrs = {"long_name": "grey value, from black to white", "units": "1"}
    fields = bunny[["node_area"]].assign(
        image=(("sample", "node"), np.round(255 * values).astype(np.uint8), attrs)
    )
    coords = {name: ("sample", digits[name].values) for name in ("label", "split")}
    dataset = finish(
        ugrid(fields.assign_coords(coords), bunny["face_nodes"].values),
        {"sample": 500},
        title="MNIST digits on the Stanford bunny",
        institution="New York University (digits); Stanford Computer Graphics Laboratory (mesh)",
        source="mnist, interpolated linearly to the nodes of bunny as seen along the z axis",
        references="LeCun et al. (1998), Proc. IEEE 86, 2278-2324; Turk and Levoy (1994), "
        "Proc. SIGGRAPH 94, 311-318",
        license="those of mnist and bunny",
    )
    dataset["image"].attrs["scale_factor"] = np.float32(1 / 255)
    dataset["split"].encoding = {"dtype": "S1"}
    return dataset


def build_fields(raw: list[Path]) -> xr.Dataset:
    """Draw smooth Gaussian fields, of known spectrum, from the bunny's own eigenfunctions."""
    from apsgeo.domains import MeshDomain

    bunny = _mesh(raw[0])
    faces = bunny["face_nodes"].values
    domain = MeshDomain(bunny["position"].values, faces)
    count = min(_EIGENFUNCTIONS, domain.num_nodes)
    eigenvalues, eigenfunctions = (part.numpy() for part in domain.eigenbasis(count))
    area = float(domain.areas.sum())
    kappa = np.sqrt(8) / (_RANGE * np.sqrt(area))
    std = 1 / (kappa**2 + eigenvalues)
    std *= np.sqrt(area / (std**2).sum())  # the mean variance by area is one
    drawn = np.random.default_rng(_SEED).standard_normal((_FIELDS, count))
    values = (drawn * std) @ eigenfunctions.T
    attrs = {"long_name": "smooth Gaussian random field", "units": "1"}
    fields = bunny[["node_area"]].assign(
        field=(("sample", "node"), values.astype(np.float32), attrs)
    )
    return finish(
        ugrid(fields, faces),
        {"sample": 100},
        title="Smooth Gaussian random fields on the Stanford bunny",
        institution="Stanford Computer Graphics Laboratory (mesh)",
        source=f"draws from {count} eigenfunctions of the cotangent Laplacian of bunny",
        references="Lindgren, Rue and Lindstrom (2011), J. R. Stat. Soc. B 73, 423-498",
        license="that of bunny",
    )


def _mesh(path: Path) -> xr.Dataset:
    """Read the bunny's file, whole."""
    with xr.open_dataset(path, engine="netcdf4") as file:
        return file.load()


_SOURCE, _MEMBERS = derived(BUNNY, MNIST)

DIGITS_ON_BUNNY = Recipe(
    name="digits-on-bunny",
    variable="image",
    source=_SOURCE,
    members=_MEMBERS,
    build=build_digits,
    folder="on_bunny",
)

_MESH_ALONE, _MESH = derived(BUNNY)

FIELDS_ON_BUNNY = Recipe(
    name="fields-on-bunny",
    variable="field",
    source=_MESH_ALONE,
    members=_MESH,
    build=build_fields,
    folder="on_bunny",
)
