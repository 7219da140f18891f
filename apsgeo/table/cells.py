"""The cells of a column of a table, as numbers or dates."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apsgeo.errors import InputError

__all__ = ["numbers_in", "times_in"]

_TURNED = re.compile(r"\s*\d{1,2}[/.\-]\d{1,2}[/.\-]\d{2,4}\b")  # dates of any country


def numbers_in(column: Any, given: str) -> NDArray[np.float64]:
    """Return a column as numbers, NaN where it is empty."""
    import pandas as pd

    if column.dtype.kind == "M" or column.dtype.kind == "b":
        raise InputError(
            f"{given} has no numbers in its column {column.name!r}, but {column.dtype}"
        )
    try:
        numbers = pd.to_numeric(column).to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        number = pd.to_numeric(column, errors="coerce")
        bad = column[number.isna() & column.notna()]
        shown = bad.iloc[0] if len(bad) else column.iloc[0]
        raise InputError(
            f"{given} has {shown!r} in its column {column.name!r}, where numbers are expected; "
            "leave the cell empty where there is none"
        ) from error
    return np.asarray(numbers, dtype=np.float64)


def times_in(column: Any, given: str) -> NDArray[Any]:
    """Return a column as datetime64, in universal time, or as the dates of its calendar."""
    import pandas as pd

    values = column.to_numpy()
    if values.dtype.kind == "O" and len(values) and hasattr(values[0], "calendar"):
        return np.asarray(values)
    if values.dtype.kind in "iuf":
        shown = f"{values[0]:g}" if len(values) else ""
        raise InputError(
            f"{given} has numbers in its column {column.name!r}, such as {shown}; expected dates, "
            "such as 2001-12-31 or 2001-12-31T06:00: pandas.to_datetime(..., format=...)",
            shell="write dates as 2001-12-31",
        )
    if column.dtype.kind not in "M":
        text = column.astype(str)
        if len(turned := text[text.str.match(_TURNED)]):
            raise InputError(
                f"{given} has {turned.iloc[0]!r} in its column {column.name!r}, where the day or "
                "the month may come first; write dates as 2001-12-31: "
                "pandas.to_datetime(..., dayfirst=...)",
                shell="write dates as 2001-12-31",
            )
    try:
        dates = pd.to_datetime(column, utc=True).dt.tz_localize(None)
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error).split(". ")[0].splitlines()[0]
        raise InputError(
            f"{given} has a column {column.name!r} that cannot be read as dates: {reason}; write "
            "them as 2001-12-31 or 2001-12-31T06:00"
        ) from error
    return np.asarray(dates.to_numpy("datetime64[us]"))
