"""Which column of a table is what, by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apsgeo.errors import InputError
from apsgeo.table.cells import numbers_in

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["known_columns", "values_of"]

_NAMES: dict[str, tuple[str, ...]] = {
    "time": ("time", "date", "datetime", "timestamp", "valid_time", "obs_time", "juld", "day"),
    "lat": ("lat", "latitude", "nav_lat", "y_lat"),
    "lon": ("lon", "long", "longitude", "lng", "nav_lon", "x_lon"),
    "x": ("x", "column", "col"),
    "y": ("y", "row"),
    "z": ("z",),
    "value": ("value", "values", "obs", "observation", "observed", "measurement", "data"),
    "error": (
        "error", "noise_std", "noise", "std", "stddev", "std_dev", "sigma", "uncertainty", "stderr",
        "obs_error", "error_std", "standard_error", "err",
    ),
    "variable": ("variable", "parameter", "quantity", "channel"),
    "units": ("units", "unit"),
}  # fmt: skip
"""Names of columns in small letters, without units in brackets; spaces and dashes are "_"."""

_LABELS = re.compile(
    r"(unnamed|index|level_|id|num|number|flags?|qc|quality|depth|pressure|pres|level|height|altitude"
    r"|elevation|station|platform|instrument|wmo|cruise|cycle|profile|orbit|track|year|month|hour"
    r"|minute|second|.*_(id|num|number|flags?|qc|quality|code))[:_\d]*"
)
"""Names of columns of numbers that are never the values, if no column is said to be these."""


def known_columns(frame: pd.DataFrame, given: str) -> dict[str, Any]:
    """Return the columns that are known by their names."""
    plain: dict[str, list[Any]] = {}
    for name in frame.columns:
        plain.setdefault(_plain(name), []).append(name)
    found = {}
    for kind, names in _NAMES.items():
        same = [each for name in names for each in plain.get(name, [])]
        preferred = plain.get(kind, [])
        if len(preferred) > 1 or (len(same) > 1 and not preferred):
            raise InputError(
                f"{given} has several columns that may be the {kind}: "
                f"{', '.join(map(str, same))}; keep one, or name it {kind!r}"
            )
        if same:
            found[kind] = (preferred or same)[0]
    return found


def values_of(
    frame: pd.DataFrame, found: dict[str, Any], names: Sequence[str], given: str
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return values, their channels, and their rows in the table."""
    plain = {_plain(name): name for name in frame.columns}
    own = [plain.get(_plain(name)) for name in names]
    every = np.arange(len(frame))
    if any(name is not None for name in own):
        columns = [(c, name) for c, name in enumerate(own) if name is not None]
        for _, name in columns:  # a variable may be called as some other column
            for kind in [kind for kind, known in found.items() if known == name]:
                del found[kind]
        parts = [numbers_in(frame[name], given) for _, name in columns]
        found.update({f"value {c}": name for c, name in columns})
        channel = np.repeat([c for c, _ in columns], len(frame))
        return np.concatenate(parts), channel, np.tile(every, len(columns))
    if "value" not in found and (left := _measured(frame, found)) is not None:
        found["value"] = left
    if "value" not in found:
        raise InputError(
            f"{given} has the columns {', '.join(map(str, frame.columns))}, and none is called "
            f"{' or '.join(map(repr, names))}, as the model's variable, or 'value'; rename the "
            "column of the values: .rename(columns={'...': 'value'})",
            shell="name it so in the first line",
        )
    values = numbers_in(frame[found["value"]], given)
    told = frame[found["variable"]].astype(str) if "variable" in found else None
    if len(names) == 1 and (told is None or told.nunique() == 1):
        return values, np.zeros(len(frame), np.int64), every
    if told is None:
        raise InputError(
            f"{given} has one column of values, and the model the variables {', '.join(names)}; "
            "give a column for each, or one called 'variable' that names the one of each row"
        )
    place = {name: c for c, name in enumerate(names)}
    unknown = sorted(set(told) - set(place))
    if unknown:
        raise InputError(
            f"{given} has the variables {', '.join(unknown[:3])}, and the model "
            f"{', '.join(names)}; leave out the rows of others"
        )
    return values, told.map(place).to_numpy(np.int64), every


def _measured(frame: pd.DataFrame, found: Mapping[str, Any]) -> Any:
    """Return the one column of numbers that are no label; None if there is none, or are several."""
    known = [str(name) for name in found.values()]
    left = [
        name
        for name in frame.columns
        if frame[name].dtype.kind in "iuf"
        and str(name) not in known
        and not _LABELS.fullmatch(_plain(name))
    ]
    return left[0] if len(left) == 1 else None


def _plain(name: Any) -> str:
    text = re.sub(r"[\(\[].*?[\)\]]", "", str(name)).strip().lower()
    return re.sub(r"[\s\-]+", "_", text)
