"""In which form the values of labelled data are written, by what the user and the labels say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from apsgeo.errors import InputError, UnitsError
from apsgeo.labels.forms.arrays import (
    Angle,
    Euler,
    Matrices,
    Quaternions,
    RotationMatrices,
    Triangles,
    Vectors,
    angle_units,
)
from apsgeo.labels.forms.datasets import Angles, Components
from apsgeo.labels.forms.form import CHANNEL, PLAIN, ArrayForm, Form, Plain
from apsgeo.values.catalogue import manifold_of
from apsgeo.values.flat import Euclidean
from apsgeo.values.hyperbolic import Hyperbolic
from apsgeo.values.manifold import Manifold
from apsgeo.values.product import Product
from apsgeo.values.quotient import Quotient, Rotations
from apsgeo.values.spd import SPD
from apsgeo.values.sphere import Circle, Sphere
from apsgeo.values.values import Values

__all__ = ["form_from_config", "form_of", "with_lengths"]

_DIRECTION = "_direction"  # how CF's standard names of directions end
_OFF = 1e-3  # that lengths may be off one
_FEW = 20  # angles of which so many tell that degrees are radians
_UPPER = ("xx", "xy", "xz", "yy", "yz", "zz")
_CONVENTIONS = {"bunge": "ZXZ", "zxz": "ZXZ", "roe": "ZYZ", "matthies": "ZYZ"}

_FORMS: dict[str, type[ArrayForm]] = {
    each.kind: each
    for each in (Angle, Vectors, Quaternions, Euler, RotationMatrices, Matrices, Triangles)
}


def form_of(
    fields: xr.DataArray | xr.Dataset,
    manifold: str | Manifold | Values | Any | None = None,
    *,
    given: str = "the history",
) -> Form:
    """Find the form of the values of labelled data.

    Without a manifold the attributes tell: ``manifold`` (a name as in `manifold_of`), ``period`` of
    an angle, or a CF standard name of a direction with units of degrees or radians. What tells
    nothing is of ordinary numbers.

    - A circle: an array of angles with the attribute ``units`` (degree; else radian) and perhaps
      ``period``; or a data set of two components. Members lie where the values do: below zero, if
      some values do.
    - A sphere, or axes: an array of unit vectors along its last dim, or one named component; or a
      data set of components.
    - Rotations: quaternions along a dim of size 4, named w, x, y, z by its coordinate or in this
      order; Euler angles along a dim of size 3, with the attribute ``convention`` ("bunge", or axes
      as scipy names them); or matrices along the last two dims, of size 3.
    - Tensors: matrices along the last two dims, or six components along one, named xx, xy, xz, yy,
      yz, zz by its coordinate or in this order.
    - Hyperbolic space: an array of points of the ball of Poincaré, like unit vectors.
    - A torus: a data set of angles.

    Args:
        fields: The data.
        manifold: What the values lie on: a name, a `Manifold`, `Values` for a choice of chart, or a
            manifold of geomstats.
        given: Name of the data in messages.

    Raises:
        InputError: If the data are in no form of the manifold, or a convention is unknown.
        UnitsError: If degrees and radians are mixed up.
    """
    told = manifold if manifold is not None else _told(fields)
    if told is None:
        return PLAIN
    values = told if isinstance(told, Values) else Values(manifold_of(told))
    space = values.manifold
    if isinstance(space, Euclidean):
        return Plain(values=Values(Euclidean(_channels(fields)), values.chart))
    if isinstance(fields, xr.Dataset):
        return _of_dataset(fields, values, given)
    if isinstance(space, Circle):
        angle = _angle(fields, space, given)
        return Angle(Values(Circle(angle.period), values.chart), **_own(angle))
    if isinstance(space, Rotations):
        return _rotations(fields, values, given)
    if isinstance(space, SPD):
        return _tensors(fields, values, given)
    if isinstance(space, Sphere | Quotient | Hyperbolic):
        return Vectors(values, _dims(fields, (space.ambient,), values, given))
    raise InputError(f"{given} is an array; values on {space!r} are a data set of their parts")


def with_lengths(form: Form, history: xr.DataArray | xr.Dataset) -> Form:
    """Return the form in which the lengths of a history's vectors are kept, if they tell anything.

    They do where directions are given by components, as winds are, whose lengths differ from one.

    Args:
        form: Form of the history, as `form_of` read it.
        history: The history.

    Raises:
        InputError: If chart="projected" is asked for, and there are no vectors.
    """
    values = form.values
    if not isinstance(form, Components):
        if values is not None and values.chart == "projected":
            raise InputError(
                f"chart='projected' of {values.manifold!r} that the history gives as "
                f"{form.kind}; give a data set of the vectors' components, or another chart"
            )
        return form
    if form.values.chart != "auto" or not isinstance(form.values.manifold, Sphere):
        return form
    square = sum(history[name] ** 2 for name in form.names)
    off = float(abs(square**0.5 - 1.0).max())
    return replace(form, values=replace(form.values, chart="projected")) if off > _OFF else form


def form_from_config(config: dict[str, Any] | None) -> Form:
    """Rebuild a form from `Form.to_config`."""
    if config is None:
        return PLAIN
    kind, values = config["kind"], Values.from_config(config["values"])
    own = {
        name: tuple(each) if isinstance(each, list) else each
        for name, each in config.items()
        if name not in ("kind", "values")
    }
    if kind == Plain.kind:
        return Plain(values=values)
    if kind == Components.kind:
        return Components(values, **own)
    if kind == Angles.kind:
        told: Any = own["angles"]
        each: Any = {name: form_from_config(form) for name, form in told.items()}
        return Angles(values, each)
    return _FORMS[kind](values, **own)


def _told(fields: xr.DataArray | xr.Dataset) -> str | None:
    """Return the name of the manifold that attributes tell of, if they do."""
    if (named := fields.attrs.get("manifold")) is not None:
        return str(named)
    if isinstance(fields, xr.Dataset):
        return None
    units = angle_units(str(fields.attrs.get("units", "")))
    named = str(fields.attrs.get("standard_name", "")).endswith(_DIRECTION)
    of_angle = units in ("degree", "radian")
    return "circle" if (named and of_angle) or "period" in fields.attrs else None


def _channels(fields: xr.DataArray | xr.Dataset) -> int:
    if isinstance(fields, xr.Dataset):
        return len(fields.data_vars)
    found = [dim for dim in fields.dims if str(dim).lower() in (CHANNEL, "channels", "band", "rgb")]
    return fields.sizes[found[0]] if found else 1


def _angle(array: xr.DataArray, space: Circle, given: str) -> Angle:
    """Read units, period and range of an array of angles."""
    units = angle_units(str(array.attrs.get("units", "radian")))
    usual = {"degree": 360.0, "radian": 2.0 * math.pi}
    chosen = space.period if space != Circle() else usual.get(units)
    period = float(array.attrs.get("period", chosen or 0.0))
    if period <= 0.0:
        raise InputError(
            f"{given} has angles in {units!r} without a period; set attrs['period'], such as 24 "
            "for hours of the day"
        )
    known = np.asarray(array)
    known = known[~np.isnan(known)]
    if units == "degree" and len(known) >= _FEW and np.abs(known).max() <= 2.0 * math.pi:
        raise UnitsError(
            f"{given} has units of degrees, and all of its {len(known)} values are within "
            f"{np.abs(known).max():.4g} of zero, as radians are; set attrs['units'] = 'radian', or "
            "convert the values by np.rad2deg"
        )
    low = 0.0 if not len(known) or float(known.min()) >= 0.0 else -0.5 * period
    return Angle(Values(Circle(period)), units=units, period=period, low=low)


def _own(angle: Angle) -> dict[str, Any]:
    return {"units": angle.units, "period": angle.period, "low": angle.low}


def _of_dataset(fields: xr.Dataset, values: Values, given: str) -> Form:
    names = tuple(str(name) for name in fields.data_vars)
    space = values.manifold
    if isinstance(space, Product) and all(isinstance(part, Circle) for part in space.parts):
        angles = {name: _angle(fields[name], Circle(), given) for name in names}
        circles = Product([Circle(each.period) for each in angles.values()])
        return Angles(Values(circles, values.chart), angles)
    if isinstance(space, Sphere | Quotient) and len(names) == space.ambient:
        return Components(values, names)
    raise InputError(
        f"{given} has the variables {', '.join(names)}; directions on {space!r} have "
        f"{space.ambient} components: select them, or give an array"
    )


def _rotations(array: xr.DataArray, values: Values, given: str) -> Form:
    if [array.sizes[dim] for dim in array.dims][-2:] == [3, 3]:
        return RotationMatrices(values, _dims(array, (3, 3), values, given))
    if (found := _found(array, (4,))) is not None and "convention" not in array.attrs:
        (dim,) = found
        labels = [str(each).lower() for each in array[dim].values] if dim in array.coords else []
        order = "".join(labels) if sorted(labels) == ["w", "x", "y", "z"] else "wxyz"
        return Quaternions(values, (dim,), order)
    named = array.attrs.get("convention")
    axes = _CONVENTIONS.get(str(named).lower(), str(named))
    same = axes in (axes.upper(), axes.lower())
    whole = len(axes) == 3 and set(axes.upper()) <= set("XYZ")
    if not (same and whole and axes[0] != axes[1] != axes[2]):
        raise InputError(
            f"{given} has dims {dict(array.sizes)} and Euler angles of the convention {named!r}; "
            "set attrs['convention'] to 'bunge' or to axes as scipy has them, such as 'ZXZ' (each "
            "about the turned axes) or 'zyx' (about fixed ones); or give quaternions or matrices"
        )
    units = angle_units(str(array.attrs.get("units", "radian")))
    if units not in ("degree", "radian"):
        raise UnitsError(f"{given} has Euler angles in {units!r}; give degree or radian")
    return Euler(values, _dims(array, (3,), values, given), axes, units)


def _tensors(array: xr.DataArray, values: Values, given: str) -> Form:
    sizes = tuple(array.sizes[dim] for dim in array.dims[-2:])
    if sizes[0] == sizes[-1] and len(sizes) == 2 and sizes[0] in (2, 3):
        space = values.manifold
        assert isinstance(space, SPD)
        if sizes[0] != space.size:
            values = Values(SPD(sizes[0], space.metric), values.chart)
        return Matrices(values, tuple(map(str, array.dims[-2:])))
    (dim,) = _dims(array, (values.manifold.ambient,), values, given)
    labels = [str(each).lower() for each in array[dim].values] if dim in array.coords else []
    labels = ["".join(sorted(label)) for label in labels]
    whole = sorted(labels) == sorted(_UPPER)
    order = tuple(_UPPER.index(label) for label in labels) if whole else tuple(range(6))
    if values.manifold.ambient != 6:
        order = tuple(range(values.manifold.ambient))
    return Triangles(values, (dim,), order)


def _dims(
    array: xr.DataArray, sizes: tuple[int, ...], values: Values, given: str
) -> tuple[str, ...]:
    """Return the dims of a value: the last ones of these sizes, or one named component."""
    if (found := _found(array, sizes)) is None:
        raise InputError(
            f"{given} has dims {dict(array.sizes)}; values on {values.manifold!r} have the last "
            f"dims of the sizes {sizes}, or one of {sizes[0]} named 'component'"
        )
    return found


def _found(array: xr.DataArray, sizes: tuple[int, ...]) -> tuple[str, ...] | None:
    for named in ("component", "components", "quaternion", "angle", "vector", "tensor", CHANNEL):
        if len(sizes) == 1 and array.sizes.get(named) == sizes[0]:
            return (named,)
    last = tuple(map(str, array.dims[-len(sizes) :]))
    return last if tuple(array.sizes[dim] for dim in last) == sizes else None
