"""Tables of observations in files: CSV and other text, and Parquet."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apsgeo.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_frame", "is_table", "is_table_path", "read_table"]

_TEXT = {".csv": ",", ".tsv": "\t", ".txt": None, ".dat": None}
_SPACED = {"sep": r"[\s,;]+", "engine": "python"}
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_PARQUET = (".parquet", ".pq")


def is_table(obs: Any) -> bool:
    """Tell whether observations are a table: of pandas, or what becomes one (polars, pyarrow)."""
    return is_frame(obs) or (hasattr(obs, "to_pandas") and not hasattr(obs, "dims"))


def is_frame(obs: Any) -> bool:
    """Tell whether an object is a table of pandas."""
    return hasattr(obs, "columns") and hasattr(obs, "iloc")


def is_table_path(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is that of a table: CSV and other text, or Parquet."""
    return _suffix(Path(path)) in (*_TEXT, *_PARQUET)


def _suffix(path: Path) -> str:
    suffixes = [each.lower() for each in path.suffixes if each.lower() not in _PACKED]
    return suffixes[-1] if suffixes else ""


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of observations: CSV, tab- or space-separated text, packed or not, or Parquet.

    Lines that begin with # are comments. CSV may have semicolons, and then decimal commas. Parquet
    needs pyarrow or fastparquet.

    Raises:
        InputError: If the file is missing, or is no such table.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a table, CSV or Parquet")
    suffix = _suffix(path)
    try:
        if suffix in _PARQUET:
            return pd.read_parquet(path)
        separator = _TEXT.get(suffix)
        kind: dict[str, Any] = {"sep": separator} if separator else _SPACED
        with warnings.catch_warnings():
            # of rows with more fields than there are names
            warnings.simplefilter("error", pd.errors.ParserWarning)
            names = pd.read_csv(path, comment="#", index_col=False, nrows=0, **kind).columns
            if separator == "," and len(names) == 1 and ";" in str(names[0]):
                kind = {"sep": ";", "decimal": ","}  # as spreadsheets of many countries write it
            return pd.read_csv(path, comment="#", index_col=False, **kind)
    except ImportError as error:
        raise InputError(
            f"{path} is Parquet, which needs pyarrow: pip install 'apsgeo[table]'; or write it as "
            "CSV"
        ) from error
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
    ) as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{path} cannot be read as a table: {reason[0] if reason else type(error).__name__}; "
            "give CSV with a line of names, such as time,lat,lon,value,error,instrument"
        ) from error
    except Exception as error:  # pyarrow has errors of its own
        if type(error).__module__.split(".")[0] in ("pyarrow", "fastparquet", "zlib", "lzma"):
            raise InputError(f"{path} cannot be read as a table: {error}") from error
        raise
