"""Read and write fields and model folders; every write is atomic.

A model folder holds ``config.json`` (schema version, kind, configuration, checksums) and
``weights.safetensors``, and may hold a card (``*.md``). Nothing is ever pickled or unpickled, and
a folder that holds any other file is refused.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import dask
import safetensors.torch
import xarray as xr
from safetensors import SafetensorError
from torch import Tensor

from apsgeo.atomic import atomic_file, atomic_folder
from apsgeo.errors import InputError, ModelError
from apsgeo.files.cf import auxiliary_names, with_auxiliary, writable
from apsgeo.files.stores import groups_in, open_store

__all__ = [
    "digest_of",
    "load_folder",
    "load_model",
    "of_kind",
    "part",
    "read_digest",
    "read_field",
    "read_fields",
    "read_kind",
    "save_folder",
    "write_netcdf",
]


class _HasKind(Protocol):
    kind: ClassVar[str]


T = TypeVar("T")
K = TypeVar("K", bound=_HasKind)

SCHEMA_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"


def save_folder(
    path: str | os.PathLike[str],
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    overwrite: bool = False,
) -> Path:
    """Save a model as a folder of JSON and safetensors, atomically.

    Args:
        path: The folder to make. Its parent is made if need be.
        kind: Kind of what is saved, such as ``"posterior"``; `load_folder` checks it.
        config: Configuration that JSON can hold: finite numbers, strings, lists, mappings with
            string keys.
        tensors: Weights by name, of any dtype and shape, on any device.
        overwrite: Whether a model folder that is already there is replaced. Anything else never is.

    Returns:
        The folder.

    Raises:
        OutputExistsError: If something is at ``path``, and it is not a model folder or
            ``overwrite`` is false.
        InputError: If ``config`` is not JSON.
    """
    path = Path(path)
    with atomic_folder(path, replaceable=_is_model_folder if overwrite else None) as folder:
        weights = _serialized(tensors)
        try:
            header = _header(kind, config, tensors, weights)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the configuration of this {kind} cannot be written as JSON: {error}; "
                "pass finite numbers, strings, lists and mappings with string keys"
            ) from error
        (folder / WEIGHTS_FILE).write_bytes(weights)
        (folder / CONFIG_FILE).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    return path


def digest_of(kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the checksum that `save_folder` writes into the configuration."""
    return str(_header(kind, config, tensors, _serialized(tensors))["sha256"])


def load_folder(
    path: str | os.PathLike[str], kind: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Load what `save_folder` saved.

    Args:
        path: The model folder.
        kind: Kind of model that it must hold; None takes any kind.

    Returns:
        As they were saved; the tensors are on the CPU.

    Raises:
        ModelError: If the folder is missing, truncated, altered, of a newer schema, of another
            kind, or holds a file that is not a model's (a pickle, say).
    """
    path = Path(path)
    header = _read_header(path)
    if kind is not None and header["kind"] != kind:
        raise ModelError(f"{path} holds a {header['kind']}, where a {kind} is expected")
    try:
        weights = (path / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path / WEIGHTS_FILE} cannot be read ({error.strerror}); copy the whole folder again"
        ) from error
    expected = header["weights"]
    if hashlib.sha256(weights).hexdigest() != expected["sha256"]:
        raise ModelError(
            f"{path / WEIGHTS_FILE} is truncated or altered: its sha256 is not the one in "
            f"{CONFIG_FILE}; copy the folder again or save the model anew"
        )
    try:
        tensors = safetensors.torch.load(weights)
    except SafetensorError as error:
        raise ModelError(f"{path / WEIGHTS_FILE} is not a safetensors file: {error}") from error
    if _describe(tensors) != expected["tensors"]:
        raise ModelError(f"the tensors in {path / WEIGHTS_FILE} are not those of {CONFIG_FILE}")
    # Clones are aligned as torch aligns: on some processors that decides how MKL adds up.
    return header["config"], {name: tensor.clone() for name, tensor in tensors.items()}


def load_model(
    path: str | os.PathLike[str],
    kind: str,
    build: Callable[[dict[str, Any], dict[str, Tensor]], T],
) -> T:
    """Load a model folder and build the model from its configuration and tensors.

    Raises:
        ModelError: If the folder is damaged, altered, newer, of another kind, or describes
            something that cannot be built.
    """
    config, tensors = load_folder(path, kind)
    try:
        return build(config, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} does not describe a {kind} that this version can build ({error}); "
            "make it again or use the version that wrote it."
        ) from error


def of_kind(classes: Iterable[type[K]], config: Mapping[str, Any], what: str) -> type[K]:
    """Return the class whose `kind` is that of a configuration.

    Raises:
        ModelError: If none has it; `what` is the name of such things.
    """
    known = {each.kind: each for each in classes}
    if config.get("kind") not in known:
        raise ModelError(
            f"the {what}'s kind is {config.get('kind')!r}, but this version of apsgeo knows: "
            f"{', '.join(known)}. Use the version of apsgeo that saved the model."
        )
    return known[config["kind"]]


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def read_kind(path: str | os.PathLike[str]) -> str:
    """Tell what a model folder holds, without reading the weights.

    Raises:
        ModelError: If the folder is not a model folder that this version can read.
    """
    return str(_read_header(Path(path))["kind"])


def read_digest(path: str | os.PathLike[str]) -> str:
    """Return the checksum of a model folder.

    Raises:
        ModelError: If the folder is not a model folder that this version can read.
    """
    return str(_read_header(Path(path))["sha256"])


def write_netcdf(
    data: xr.Dataset | xr.DataArray,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    encoding: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write netCDF-4, atomically; the same data gives the same bytes.

    Lazy data is computed block by block, in one thread, so that the blocks lie in the file in the
    order of their indices.

    Args:
        data: Array or data set to write; an array needs a name.
        path: The file to make. Its parent is made if need be.
        overwrite: Whether a file that is already there is replaced.
        encoding: Encoding by variable, as in `xarray.Dataset.to_netcdf`; other variables keep
            theirs.

    Returns:
        The file.

    Raises:
        OutputExistsError: If something is at ``path`` and ``overwrite`` is false, or it is a
            folder.
        InputError: If a DataArray has no name, or the path is that of a Zarr store.
    """
    if isinstance(data, xr.DataArray):
        if data.name is None:
            raise InputError(
                "the DataArray has no name, and the file needs one for its variable; "
                "use .rename('air') or the like"
            )
        data = data.to_dataset()
    path = Path(path)
    if path.suffix == ".zarr":
        raise InputError(
            f"{path} is to be a netCDF file, and no Zarr store; give it the suffix .nc"
        )
    if named := [name for name in data.variables if "/" in str(name)]:
        raise InputError(
            f"{named[0]!r} has a slash in its name, which tells groups apart in a file; use .rename"
        )
    data = writable(data)
    with atomic_file(path, overwrite) as temporary, dask.config.set(scheduler="synchronous"):
        data.to_netcdf(
            temporary,
            format="NETCDF4",
            engine="netcdf4",
            encoding={name: dict(options) for name, options in (encoding or {}).items()},
        )
    return path


def read_field(
    path: str | os.PathLike[str], variable: str | None = None, group: str | None = None
) -> xr.DataArray:
    """Open one variable of a netCDF file or Zarr store; values are read when they are used.

    Args:
        path: The netCDF file or Zarr store, or a pattern of several, ``obs_*.nc``, whose records
            follow each other.
        variable: Name of the variable. It may be left out if the file holds only one field (a
            numeric variable of two dimensions or more that does not describe others, as bounds do).

        group: Group of the file that holds the variable, such as "PRODUCT"; the variable may be
            named with it, "PRODUCT/tas".

    Raises:
        InputError: If the file is missing or not netCDF, has no such group or variable, or has
            several fields and ``variable`` does not say which.
    """
    if variable is not None and "/" in variable:
        group, variable = variable.strip("/").rsplit("/", 1)
    dataset = open_store(path, group)
    described = with_auxiliary(dataset)
    fields = _fields(described)
    if variable is None and len(fields) == 1:
        return described[fields[0]]
    if variable in described.data_vars:
        return described[variable]
    if variable in dataset.data_vars:
        return dataset[variable]
    found = ", ".join(map(str, described.data_vars)) or "none"
    dataset.close()
    groups = groups_in(path) if group is None else []
    if groups and not fields:
        raise InputError(
            f"{path} holds its variables in groups; name one of {', '.join(groups)}: group=...",
            shell=f"--group {groups[0]}",
        )
    if variable is None:
        raise InputError(
            f"{path} holds {len(fields)} fields, where one is expected; name the variable to use, "
            f"out of: {found}",
            shell=f"--variable {fields[0] if fields else 'NAME'}",
        )
    raise InputError(f"{path} has no variable {variable!r}; its variables: {found}")


def read_fields(
    path: str | os.PathLike[str],
    variables: Sequence[str] = (),
    group: str | None = None,
) -> xr.DataArray | xr.Dataset:
    """Open one variable, as `read_field` does, or several as a data set.

    Args:
        path: The netCDF file or Zarr store, or a pattern of several.
        variables: Names of the variables; none where the file holds one field.
        group: Group that holds them.

    Raises:
        InputError: As `read_field`.
    """
    if len(variables) < 2:
        return read_field(path, variables[0] if variables else None, group)
    each = {name.rsplit("/", 1)[-1]: read_field(path, name, group) for name in variables}
    dataset = open_store(path, group)
    beside = [name for name in auxiliary_names(dataset) if name not in each]
    whole = dataset[beside].assign(each)
    whole.encoding = dataset.encoding
    return whole


def _fields(dataset: xr.Dataset) -> list[str]:
    return [
        str(name)
        for name, array in dataset.data_vars.items()
        if array.ndim >= 2 and array.dtype.kind in "fiu"
    ]


def _serialized(tensors: Mapping[str, Tensor]) -> bytes:
    # A clone owns its memory, which the format demands of views and of tied weights.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(own)


def _header(
    kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], weights: bytes
) -> dict[str, Any]:
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "weights": {"sha256": hashlib.sha256(weights).hexdigest(), "tensors": _describe(tensors)},
        "config": config,
    }
    # There and back, so that the digest is of what a reader will see (keys are strings by then).
    header: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    return header | {"sha256": _digest(header)}


def _describe(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    return {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        for name, tensor in sorted(tensors.items())
    }


def _digest(header: Mapping[str, Any]) -> str:
    content = {key: value for key, value in header.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise ModelError(f"{path} is not a folder; give the path of a saved model folder")
    if foreign := _foreign_files(path):
        more = "" if len(foreign) < 4 else f" and {len(foreign) - 3} more"
        raise ModelError(
            f"{path} holds {', '.join(foreign[:3])}{more}, which no model folder does; such a file "
            "may be a pickle, which can run code: take it out if you trust the rest"
        )
    try:
        header = json.loads((path / CONFIG_FILE).read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{path} has no {CONFIG_FILE}: it is not a saved model") from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path / CONFIG_FILE} is truncated or not JSON ({error}); copy the folder again"
        ) from error
    version = header.get("schema_version") if isinstance(header, dict) else None
    if type(version) is not int or version < 1:
        raise ModelError(f"{path / CONFIG_FILE} has no schema version: it is not a saved model")
    if version > SCHEMA_VERSION:
        raise ModelError(
            f"{path} was saved with schema version {version}, and this apsgeo reads up to "
            f"{SCHEMA_VERSION}; upgrade apsgeo"
        )
    if header.get("sha256") != _digest(header) or not {"kind", "weights", "config"} <= set(header):
        raise ModelError(
            f"{path / CONFIG_FILE} is altered: its content does not match its own sha256; "
            "copy the folder again or save the model anew"
        )
    return dict(header)


def _foreign_files(path: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in path.iterdir()
        if not entry.is_file()
        or (entry.name not in (CONFIG_FILE, WEIGHTS_FILE) and entry.suffix.lower() != ".md")
    )


def _is_model_folder(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file() and not _foreign_files(path)
