"""Build ebsd; the card beside this file says what it is."""

import configparser
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.datasets.cf import finish
from apsgeo.datasets.pypi import Sdist
from apsgeo.datasets.recipe import Recipe
from apsgeo.errors import DatasetError

__all__ = ["EBSD"]

# The fields of a record by their number in the header; the phase comes first, without a number.
_FIELDS: dict[int, tuple[str, str]] = {
    3: ("phi1", "<f4"),
    4: ("Phi", "<f4"),
    5: ("phi2", "<f4"),
    6: ("mad", "<f4"),
    7: ("band_contrast", "u1"),
    8: ("band_slope", "u1"),
    10: ("bands", "u1"),
    11: ("error", "u1"),
    12: ("reliability", "<f4"),
}


def read_channel(records: Path, header: Path) -> tuple[NDArray[np.void], tuple[float, float]]:
    """Read an EBSD map in HKL's Channel 5 format, a ``.crc`` file with its ``.cpr`` header.

    Returns:
        The records, of shape (y, x) with a field for each measured quantity, and the distance
        between points along y and x [µm].

    Raises:
        DatasetError: If the files are truncated, or do not fit each other.
    """
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string(header.read_text(encoding="latin-1"))
        job, fields = parser["Job"], parser["Fields"]
        shape = int(job["yCells"]), int(job["xCells"])
        spacing = float(job["GridDistY"]), float(job["GridDistX"])
        numbers = [int(fields[f"Field{n}"]) for n in range(1, int(fields["Count"]) + 1)]
        layout = np.dtype([("phase", "u1"), *(_FIELDS[number] for number in numbers)])
    except (configparser.Error, KeyError, ValueError) as error:
        raise DatasetError(f"{header.name} is not a header that can be read: {error!r}") from error
    content = records.read_bytes()
    if len(content) != shape[0] * shape[1] * layout.itemsize:
        raise DatasetError(
            f"{records.name} has {len(content)} bytes, where {shape[0]} x {shape[1]} records of "
            f"{layout.itemsize} are expected; it is truncated or damaged"
        )
    return np.frombuffer(content, layout).reshape(shape), spacing


def quaternions(
    phi1: NDArray[np.floating], capital_phi: NDArray[np.floating], phi2: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Turn Bunge's Euler angles [radians] into unit quaternions.

    The rotation is R = R_z(φ₁) R_x(Φ) R_z(φ₂), which takes crystal to specimen coordinates.

    Returns:
        (w, x, y, z) along a last dimension, w ≥ 0.
    """
    half, total, difference = capital_phi / 2, (phi1 + phi2) / 2, (phi1 - phi2) / 2
    parts = (
        np.cos(half) * np.cos(total),
        np.sin(half) * np.cos(difference),
        np.sin(half) * np.sin(difference),
        np.cos(half) * np.sin(total),
    )
    result = np.stack(parts, axis=-1).astype(np.float64)
    return np.where(result[..., :1] < 0, -result, result)


def build(raw: list[Path]) -> xr.Dataset:
    """Make the file of orientations, NaN where none was found, and of what was measured beside."""
    records, (dy, dx) = read_channel(*raw)
    missing = (records["phase"] == 0)[..., None]
    names = ("phi1", "Phi", "phi2")
    angles = [records[name].astype(np.float64) for name in names]
    euler = np.where(missing, np.nan, np.stack(angles, axis=-1))
    rotation = np.where(missing, np.nan, quaternions(*angles))
    rows, columns = records.shape
    step = {"units": "um"}
    return finish(
        xr.Dataset(
            {
                "orientation": (
                    ("y", "x", "component"),
                    rotation.astype(np.float32),
                    {"long_name": "rotation from crystal to specimen, unit quaternion w x y z"},
                ),
                "euler": (
                    ("y", "x", "angle"),
                    euler.astype(np.float32),
                    {"long_name": "Euler angles in Bunge's convention", "units": "radian"},
                ),
                "phase": (("y", "x"), records["phase"].astype(np.int8), _PHASE),
                "mad": (
                    ("y", "x"),
                    np.where(missing[..., 0], np.nan, records["mad"]).astype(np.float32),
                    {"long_name": "mean angular deviation of the bands", "units": "degree"},
                ),
                "band_contrast": (
                    ("y", "x"),
                    records["band_contrast"].astype(np.int16),
                    {"long_name": "contrast of the diffraction pattern", "units": "1"},
                ),
            },
            {
                "y": ("y", np.arange(rows) * dy, {"long_name": "distance down", **step}),
                "x": ("x", np.arange(columns) * dx, {"long_name": "distance across", **step}),
                "component": ["w", "x", "y", "z"],
                "angle": list(names),
            },
        ),
        title="EBSD map of a martensitic steel: crystal orientations",
        source="electron backscatter diffraction, HKL Channel 5 (.crc, .cpr)",
        license="GPL-2.0 (of the package mtex)",
    )


_PHASE = {
    "long_name": "phase",
    "flag_values": np.array([0, 1], np.int8),
    "flag_meanings": "not_indexed iron_bcc",
}

_FOLDER = "mtex-1.0.0/tests/fixtures/ebsd"
EBSD = Recipe(
    name="ebsd",
    variable="orientation",
    source=Sdist(
        package="mtex",
        version="1.0.0",
        sha256="3f4d332fea91dabaaaa7b71e0696609904b8295d6e484ae11ff2238e240cab77",
    ),
    members=(f"{_FOLDER}/martensite_cut.crc", f"{_FOLDER}/martensite_cut.cpr"),
    build=build,
)
