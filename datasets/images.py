"""Image files of old formats, and a data set of images that all recipes of images make."""

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.datasets.cf import finish
from apsgeo.errors import DatasetError

__all__ = ["image_dataset", "parse_pgm", "read_idx_images"]

Bytes = NDArray[np.uint8]


def read_idx(path: Path) -> Bytes:
    """Read an IDX file of unsigned bytes, compressed by gzip or not.

    The format is LeCun's: two zero bytes, the type (8 for unsigned bytes), the number of
    dimensions, each size as a big-endian 32-bit integer, and the values in C order.

    Raises:
        DatasetError: If it is truncated, too long, or not IDX.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DatasetError(f"{path.name} cannot be decompressed: {error}") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DatasetError(f"{path.name} is no IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    shape = tuple(
        int.from_bytes(content[offset : offset + 4], "big") for offset in range(4, start, 4)
    )
    if len(content) != start + math.prod(shape):
        raise DatasetError(
            f"{path.name} has {len(content)} bytes, where {start + math.prod(shape)} are expected "
            f"for values of shape {shape}; it is truncated or damaged"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def parse_pgm(content: bytes, name: str) -> Bytes:
    """Read a binary greymap (PGM, ``P5``) of 8 bits, without comments.

    Raises:
        DatasetError: If it is truncated, or of another kind.
    """
    # One white space ends the header; the first value may look like white space too.
    header = re.match(rb"P5\s+(\d+)\s+(\d+)\s+(\d+)\s", content)
    if header is None:
        raise DatasetError(f"{name} is no binary greymap (PGM)")
    columns, rows, most = (int(number) for number in header.groups())
    found = len(content) - header.end()
    if not 0 < most < 256 or found != rows * columns:
        raise DatasetError(
            f"{name} holds {found} bytes for values up to {most}, where {rows} x {columns} "
            "8-bit values are expected; it is truncated or damaged"
        )
    return np.frombuffer(content, np.uint8, offset=header.end()).reshape(rows, columns)


def image_dataset(
    images: Bytes, labels: Sequence[int] | Bytes | None = None, **attrs: str
) -> xr.Dataset:
    """Make the data set of grey images: ``image(sample, row, col)`` from 0 (black) to 1 (white).

    They stay bytes in the file, and are float32 once opened.

    Args:
        images: Grey values from 0 to 255, of shape (sample, row, col).
        labels: Class of each image, which becomes the coordinate ``label(sample)``.
        attrs: Global attributes of the data set, as for `finish`.
    """
    dataset = xr.Dataset({"image": (("sample", "row", "col"), images)})
    if labels is not None:
        dataset = dataset.assign_coords(label=("sample", np.asarray(labels, np.int16)))
    dataset = finish(dataset, {"sample": 500}, **attrs)
    dataset["image"].attrs = {
        "long_name": "grey value, from black to white",
        "units": "1",
        "scale_factor": np.float32(1 / 255),
    }
    return dataset


def read_idx_images(raw: Sequence[Path], **attrs: str) -> xr.Dataset:
    """Read images and labels for training, then images and labels for testing.

    Returns:
        All in that order; the coordinate ``split(sample)`` tells which is which.

    Raises:
        DatasetError: If a file is damaged, or there are not as many labels as images.
    """
    train_images, train_labels, test_images, test_labels = (read_idx(path) for path in raw)
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DatasetError(
                f"images of shape {images.shape} come with labels of shape {labels.shape}"
            )
    dataset = image_dataset(
        np.concatenate([train_images, test_images]),
        np.concatenate([train_labels, test_labels]),
        **attrs,
    )
    split = np.repeat(["train", "test"], [len(train_images), len(test_images)])
    dataset = dataset.assign_coords(split=("sample", split))
    dataset["split"].encoding = {"dtype": "S1"}
    return dataset
