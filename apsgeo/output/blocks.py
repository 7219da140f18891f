"""Blocks of records that are drawn one after the other, and survive a kill."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import xarray as xr

from apsgeo.atomic import atomic_file
from apsgeo.labels.times import record_dims
from apsgeo.progress import Bar

__all__ = ["drawn_in_blocks", "parts_folder"]

_IDENTITY = "identity.json"


def parts_folder(path: Path) -> Path:
    """Return the hidden folder of the blocks of what will be at a path."""
    return path.parent / f".{path.name}.parts"


@contextmanager
def drawn_in_blocks(dataset: xr.Dataset, path: Path, identity: str | None) -> Iterator[xr.Dataset]:
    """Draw a lazy data set block by block of records, and give it as one that is read from disk.

    Blocks of an earlier call of the same identity are not drawn again. All are deleted when the
    context ends well; without an identity, in any case. Where there is one block, or one variable
    without an identity, the data set is given as it is, with a bar that shows how far it is.

    Args:
        dataset: Lazy variables, in blocks along the dim of records.
        path: Path of what is made; the blocks are kept in a folder beside it.
        identity: Text that tells these blocks from all others.
    """
    dim, sizes = _blocks(dataset)
    alone = len(dataset.data_vars) == 1
    if dim is None or (alone and (identity is None or len(sizes) < 2)):
        with _Shown(len(sizes)):
            # Variables are written one by one, and yet drawn together.
            yield dataset if alone else dataset.compute(scheduler="synchronous")
        return
    folder = parts_folder(path)
    try:
        _prepare(folder, identity or "", dataset)
        parts = _drawn(dataset, dim, sizes, folder)
        yield _joined(parts, dataset, dim)
    except BaseException:
        if identity is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    for part in parts:
        part.close()
    shutil.rmtree(folder, ignore_errors=True)


def _drawn(dataset: xr.Dataset, dim: str, sizes: tuple[int, ...], folder: Path) -> list[xr.Dataset]:
    """Draw the blocks that are not in the folder yet; return all, read when they are used.

    They are opened at last: what lives on between two draws keeps the memory of the first from
    being given back.
    """
    files, start = [], 0
    with Bar(total=len(sizes), name="drawing members", unit="block", delay=1.0) as bar:
        for number, size in enumerate(sizes):
            file = folder / f"{number:06d}.nc"
            if not file.exists():
                _draw(dataset.isel({dim: slice(start, start + size)}), file)
            files.append(file)
            start += size
            bar.update()
    return [xr.open_dataset(f, engine="netcdf4", decode_cf=False, cache=False) for f in files]


def _blocks(dataset: xr.Dataset) -> tuple[str | None, tuple[int, ...]]:
    """Return the dim of records, and the sizes of the blocks along it."""
    for each in dataset.data_vars.values():
        dims = record_dims(each) if each.chunks is not None else ()
        if len(dims) == 1 and each.chunksizes:
            return dims[0], each.chunksizes[dims[0]]
    return None, (1,)


def _prepare(folder: Path, identity: str, dataset: xr.Dataset) -> None:
    """Make the folder, empty unless it is of the same identity."""
    shapes = {str(name): str(dict(each.sizes)) for name, each in dataset.data_vars.items()}
    text = json.dumps({"identity": identity, "variables": shapes}, indent=1)
    digest = hashlib.sha256(text.encode()).hexdigest()
    known = folder / _IDENTITY
    try:
        same = json.loads(known.read_text(encoding="utf-8"))["sha256"] == digest
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not same:
        with atomic_file(known) as temporary:
            temporary.write_text(json.dumps({"sha256": digest}), encoding="utf-8")


def _draw(part: xr.Dataset, file: Path) -> None:
    """Compute a block, without its coordinates, and write it, uncompressed."""
    bare = part.drop_vars(part.coords).drop_attrs(deep=True)
    bare = bare.rename({name: f"v{place}" for place, name in enumerate(bare.data_vars)})
    for variable in bare.variables.values():
        variable.encoding = {}
    fills: dict[Hashable, dict[str, Any]] = {name: {"_FillValue": None} for name in bare.data_vars}
    with atomic_file(file) as temporary, dask.config.set(scheduler="synchronous"):
        bare.to_netcdf(temporary, format="NETCDF4", engine="netcdf4", encoding=fills)


def _joined(parts: list[xr.Dataset], like: xr.Dataset, dim: str) -> xr.Dataset:
    """Return blocks that were drawn, with the labels of the data set that they are of.

    Arrays of dask have names of their own, by whose order they are written, always the same.
    """
    along = {name: dim in each.dims for name, each in like.data_vars.items()}
    made: dict[Hashable, xr.DataArray] = {}
    for place, (name, each) in enumerate(like.data_vars.items()):
        blocks = [
            part[f"v{place}"].variable.chunk(_limited(each, dim), name=f"part-{place}-{number:06d}")
            for number, part in enumerate(parts)
        ]
        variable = xr.Variable.concat(blocks, dim) if along[name] else blocks[0]
        made[name] = each.copy(data=variable.transpose(*each.dims).data)
        made[name].encoding = dict(each.encoding)
    found = like.assign(made)
    for name in made:
        found[name].encoding = made[name].encoding
    return found


def _limited(like: xr.DataArray, dim: str) -> dict[Hashable, int]:
    """Return the size of the blocks in which one that was drawn is read."""
    sizes = like.chunksizes
    return {name: -1 if name == dim else max(blocks) for name, blocks in sizes.items()}


class _Shown(dask.callbacks.Callback):
    """A bar of the tasks of dask that draw, while it is the context."""

    def __init__(self, blocks: int) -> None:
        self._bar = Bar(total=blocks, name="drawing members", unit="block", delay=1.0)
        super().__init__(posttask=self._after)

    def _after(self, key: Any, *rest: Any) -> None:
        if str(key[0] if isinstance(key, tuple) else key).startswith("impute-"):
            self._bar.total = max(self._bar.total, self._bar.n + 1)
            self._bar.update()

    def __exit__(self, *arguments: Any) -> None:
        super().__exit__(*arguments)
        self._bar.close()
