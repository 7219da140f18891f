"""Forms of one array: angles, unit vectors, quaternions, Euler angles, matrices, tensors."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from scipy.spatial.transform import Rotation

from apsgeo.errors import InputError, UnitsError
from apsgeo.labels.forms.form import Array, ArrayForm

__all__ = ["Angle", "Euler", "Matrices", "Quaternions", "RotationMatrices", "Triangles", "Vectors"]

_TURNS = 2.02  # times around beyond which an angle is hardly meant in radians
_ORTHOGONAL = 1e-3


@dataclass(frozen=True)
class Angle(ArrayForm):
    """An angle of some period, in its own units, between `low` and `low` + period.

    Attributes:
        units: Units, such as "degree".
        period: Period in these units.
        low: Least value of members.
    """

    kind: ClassVar[str] = "angle"
    units: str = "radian"
    period: float = 2.0 * math.pi
    low: float = 0.0

    def check_labels(self, obs: xr.DataArray, given: str) -> None:
        """Check that the units are those of the form."""
        _check_angle_units(obs, given, self.units)

    def points(self, numbers: Array) -> Array:
        """Return (cos, sin)."""
        if self.units == "radian" and numbers.size:
            most = float(np.nanmax(np.abs(numbers), initial=0.0))
            if most > _TURNS * self.period:
                raise UnitsError(
                    f"angles are up to {most:.4g} in size, and are taken for radians of the period "
                    f"{self.period:.4g}; if they are degrees, set attrs['units'] = 'degree'"
                )
        angle = numbers * (2.0 * np.pi / self.period)
        return np.stack([np.cos(angle), np.sin(angle)], -1)

    def numbers(self, points: Array) -> Array:
        """Return the angle in its range."""
        angle = np.arctan2(points[..., 1], points[..., 0]) * (self.period / (2.0 * np.pi))
        return self.low + np.mod(angle - self.low, self.period)


def angle_units(units: str) -> str:
    """Return "degree" or "radian" for what means them; other units as they are."""
    plain = units.strip().lower()
    if plain in ("degree", "degrees", "deg", "°", "degrees_true", "degree_true"):
        return "degree"
    return "radian" if plain in ("radian", "radians", "rad") else units


@dataclass(frozen=True)
class Vectors(ArrayForm):
    """Unit vectors along a dim."""

    kind: ClassVar[str] = "vectors"

    def points(self, numbers: Array) -> Array:
        """Return the vectors."""
        return numbers

    def numbers(self, points: Array) -> Array:
        """Return the vectors."""
        return points


@dataclass(frozen=True)
class Quaternions(ArrayForm):
    """Unit quaternions along a dim.

    Attributes:
        order: Order of the components, "wxyz" or "xyzw".
    """

    kind: ClassVar[str] = "quaternions"
    order: str = "wxyz"

    def points(self, numbers: Array) -> Array:
        """Return (w, x, y, z)."""
        return numbers[..., [self.order.index(name) for name in "wxyz"]]

    def numbers(self, points: Array) -> Array:
        """Return the components in their order, of the sign with w >= 0."""
        signed = np.where(points[..., :1] < 0.0, -points, points)
        return signed[..., ["wxyz".index(name) for name in self.order]]


@dataclass(frozen=True)
class Euler(ArrayForm):
    """Euler angles along a dim, in radians or degrees.

    Attributes:
        convention: Axes as scipy has them: capitals turn with the body, "ZXZ" being Bunge's.
        units: "degree" or "radian".
    """

    kind: ClassVar[str] = "euler"
    convention: str = "ZXZ"
    units: str = "radian"

    def check_labels(self, obs: xr.DataArray, given: str) -> None:
        """Check that the units are those of the form."""
        _check_angle_units(obs, given, self.units)

    def points(self, numbers: Array) -> Array:
        """Return quaternions (w, x, y, z)."""
        if self.units == "radian" and numbers.size:
            most = float(np.nanmax(np.abs(numbers), initial=0.0))
            if most > _TURNS * 2.0 * np.pi:
                raise UnitsError(
                    f"Euler angles are up to {most:.4g} in size, and are taken for radians; if "
                    "they are degrees, set attrs['units'] = 'degree'"
                )
        known = np.nan_to_num(numbers).reshape(-1, 3)
        turned = Rotation.from_euler(self.convention, known, degrees=self.units == "degree")
        return _with_gaps(_quaternions(turned), numbers)

    def numbers(self, points: Array) -> Array:
        """Return the angles, the first and the last from zero to a whole turn."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Gimbal lock")
            angles = _rotations(points).as_euler(self.convention)
        turn = 2.0 * np.pi
        angles[:, [0, 2]] = np.mod(angles[:, [0, 2]], turn)
        found = np.degrees(angles) if self.units == "degree" else angles
        return _with_gaps(found, points)


@dataclass(frozen=True)
class RotationMatrices(ArrayForm):
    """Rotation matrices along two dims, row and column."""

    kind: ClassVar[str] = "rotation matrices"

    def points(self, numbers: Array) -> Array:
        """Return quaternions (w, x, y, z).

        Raises:
            InputError: If a matrix is not a rotation: how far off it is.
        """
        known = np.asarray(~np.isnan(numbers).any((-1, -2)))
        matrices = np.where(known[..., None, None], numbers, np.eye(3)).reshape(-1, 3, 3)
        off = np.abs(np.swapaxes(matrices, -1, -2) @ matrices - np.eye(3)).max(initial=0.0)
        mirrored = np.linalg.det(matrices) < 0.0
        if off > _ORTHOGONAL or mirrored.any():
            what = (
                f"{int(mirrored.sum())} matrices mirror (their determinant is -1)"
                if mirrored.any() and off <= _ORTHOGONAL
                else f"R^T R differs from the identity by up to {off:.3g}"
            )
            raise InputError(
                f"some matrices are not rotations: {what}; orthonormalize them, as by "
                "scipy.linalg.polar, or set them to NaN"
            )
        found = _quaternions(Rotation.from_matrix(matrices))
        return np.where(known[..., None], found.reshape(*known.shape, 4), np.nan)

    def numbers(self, points: Array) -> Array:
        """Return the matrices."""
        found = _rotations(points).as_matrix().reshape(*points.shape[:-1], 3, 3)
        missing = np.asarray(np.isnan(points).any(-1))[..., None, None]
        return np.where(missing, np.nan, found)


@dataclass(frozen=True)
class Matrices(ArrayForm):
    """Symmetric positive definite matrices along two dims."""

    kind: ClassVar[str] = "matrices"

    def points(self, numbers: Array) -> Array:
        """Return the upper triangle.

        Raises:
            InputError: If a matrix is not symmetric.
        """
        size = np.nanmax(np.abs(numbers), initial=0.0)
        skew = np.nanmax(np.abs(numbers - np.swapaxes(numbers, -1, -2)), initial=0.0)
        if skew > 1e-4 * size:
            raise InputError(
                f"some matrices are not symmetric, by up to {skew:.3g}; take (S + S^T) / 2"
            )
        i, j = np.triu_indices(numbers.shape[-1])
        return numbers[..., i, j]

    def numbers(self, points: Array) -> Array:
        """Return the matrices."""
        size = round(math.sqrt(2 * points.shape[-1] + 0.25) - 0.5)
        i, j = np.triu_indices(size)
        whole = np.empty((*points.shape[:-1], size, size))
        whole[..., i, j] = points
        whole[..., j, i] = points
        return whole


@dataclass(frozen=True)
class Triangles(ArrayForm):
    """Symmetric positive definite matrices by their components along a dim.

    Attributes:
        order: Place of each component in the upper triangle, row by row.
    """

    kind: ClassVar[str] = "triangles"
    order: tuple[int, ...] = (0, 1, 2, 3, 4, 5)

    def points(self, numbers: Array) -> Array:
        """Return the components row by row."""
        return numbers[..., list(np.argsort(self.order))]

    def numbers(self, points: Array) -> Array:
        """Return the components in their order."""
        return points[..., list(self.order)]


def _quaternions(rotations: Any) -> Array:
    """Return (w, x, y, z) with w >= 0 of scipy's rotations."""
    found = rotations.as_quat()[:, [3, 0, 1, 2]]
    return np.where(found[:, :1] < 0.0, -found, found)


def _rotations(points: Array) -> Any:
    flat = points.reshape(-1, 4)
    known = np.where(np.isnan(flat).any(-1, keepdims=True), [1.0, 0.0, 0.0, 0.0], flat)
    return Rotation.from_quat(known[:, [1, 2, 3, 0]])


def _with_gaps(found: Array, like: Array) -> Array:
    """Return (..., k) of (flat, k), NaN where the numbers (..., l) have one."""
    shaped = found.reshape(*like.shape[:-1], found.shape[-1])
    return np.where(np.isnan(like).any(-1, keepdims=True), np.nan, shaped)


def _check_angle_units(obs: xr.DataArray, given: str, units: str) -> None:
    own = obs.attrs.get("units")
    if own is not None and angle_units(str(own)) != units:
        raise UnitsError(
            f"{given} has units {own!r}, and {units!r} are expected; convert it, as by "
            "np.rad2deg or np.deg2rad, and set attrs['units']"
        )
