"""Write files and folders so that a crash leaves either the old state or the new, never a half.

The result is made beside its destination under a hidden temporary name, flushed to the disk, and
renamed.
"""

import csv
import ctypes
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apsgeo.errors import OutputExistsError

__all__ = ["atomic_file", "atomic_folder", "write_csv"]


@contextmanager
def atomic_file(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path; what is written there becomes ``path`` if the block succeeds.

    Args:
        path: The file to make. Its parent is made if need be.
        overwrite: Whether a file that is already there is replaced.

    Raises:
        OutputExistsError: If something is at ``path`` and ``overwrite`` is false, or it is no file
            but a folder, a device or a pipe.
    """
    path = Path(path)
    _refuse_existing_file(path, overwrite)
    temporary = _name_beside(path)
    try:
        yield temporary
        _fsync(temporary)
        _refuse_existing_file(path, overwrite)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], replaceable: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Yield a temporary folder; its files become the folder ``path`` if the block succeeds.

    Args:
        path: The folder to make. Its parent is made if need be.
        replaceable: Function that says of a folder that is already there whether it may be
            replaced; None replaces nothing.

    Raises:
        OutputExistsError: If something is at ``path`` that may not be replaced.
    """
    path = Path(path)
    _refuse_existing_folder(path, replaceable)
    temporary = _name_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _fsync(file)
        _fsync(temporary)
        _refuse_existing_folder(path, replaceable)
        _install(temporary, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _name_beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"


def _refuse_existing_file(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder, where a file is to be written")
    if path.exists() and not path.is_file():
        # renaming would put a file in its place, for all programs of the machine
        raise OutputExistsError(f"{path} is a device or a pipe; give the path of a file")
    if os.path.lexists(path) and not overwrite:
        raise OutputExistsError(f"{path} exists; choose another path or ask to overwrite it")


def _refuse_existing_folder(path: Path, replaceable: Callable[[Path], bool] | None) -> None:
    if not os.path.lexists(path):
        return
    if replaceable is None:
        raise OutputExistsError(f"{path} exists; choose another path or ask to overwrite it")
    if path.is_symlink() or not path.is_dir() or not replaceable(path):
        raise OutputExistsError(
            f"{path} exists and is not what would replace it, so it is not overwritten; "
            "choose another path or remove it yourself"
        )


def _install(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``; a folder that was there takes the name ``source``."""
    if not target.exists():
        source.rename(target)
    elif not _exchange(source, target):
        aside = _name_beside(target)
        try:
            target.rename(aside)
            source.rename(target)
        except BaseException:
            if not target.exists():
                aside.rename(target)
            raise
        aside.rename(source)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux's renameat2); False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_csv(
    path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]], overwrite: bool = True
) -> None:
    """Write records as CSV, atomically; a column a key, in the order in which keys appear.

    Raises:
        OutputExistsError: If ``path`` exists and ``overwrite`` is false.
    """
    keys = list(dict.fromkeys(key for record in records for key in record))
    with (
        atomic_file(path, overwrite) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
