"""Build fashion-mnist; the card beside this file says what it is."""

from pathlib import Path

import xarray as xr

from apsgeo.datasets.debian import DebianPackage
from apsgeo.datasets.images import read_idx_images
from apsgeo.datasets.recipe import Recipe

__all__ = ["FASHION_MNIST"]

_FOLDER = "usr/share/datasets/fashion-mnist"
_FILES = {
    "train-images-idx3-ubyte": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
_SHA256 = {f"{_FOLDER}/{name}.gz": sha256 for name, sha256 in _FILES.items()}


def build(raw: list[Path]) -> xr.Dataset:
    """Put all images, for training and then for testing, into one file."""
    return read_idx_images(
        raw,
        title="Fashion-MNIST: images of clothes",
        institution="Zalando Research",
        source="photographs of Zalando's articles, made grey and small",
        references="Xiao, Rasul, Vollgraf (2017), Fashion-MNIST: a Novel Image Dataset for "
        "Benchmarking Machine Learning Algorithms, arXiv:1708.07747",
        license="MIT",
    )


FASHION_MNIST = Recipe(
    name="fashion-mnist",
    variable="image",
    source=DebianPackage(
        package="dataset-fashion-mnist",
        version="0.0~git20200523.55506a9-1",
        sha256=_SHA256,
    ),
    members=tuple(_SHA256),
    build=build,
)
