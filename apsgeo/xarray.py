"""Labelled data in, a lazy labelled ensemble out: `impute`, and the accessor ``.aps``."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

import apsgeo
from apsgeo.channels import as_array, as_variables, check_variables
from apsgeo.checks import (
    check_floating,
    check_units,
    check_values,
    integer,
    node_noise,
    record_table,
)
from apsgeo.errors import GridError, InputError

if TYPE_CHECKING:
    import dask.array
    from torch import Tensor

    from apsgeo.domains import Domain
    from apsgeo.domains.layout import Layout
    from apsgeo.posterior import Posterior

__all__ = ["ApsAccessor", "impute", "write_ensemble"]

CONVENTIONS = "CF-1.10"

_BLOCK_BYTES = 2**24  # of members in one block; drawing them takes some ten times as much
_MEMBER = -1  # the number of the members' axis, beside those of the data
_LAYOUT = ("chunksizes", "contiguous", "original_shape", "preferred_chunks", "source")
_COMPRESSIONS = ("zlib", "zstd", "szip", "bzip2", "blosc", "compression")
_PACKING = ("dtype", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


Fields = TypeVar("Fields", xr.DataArray, xr.Dataset)


def impute(
    obs: Fields,
    posterior: Posterior,
    members: int = 64,
    seed: int = 0,
    noise_std: float | ArrayLike | xr.DataArray | None = None,
) -> Fields:
    """Fill the gaps of observed fields with an ensemble; one network evaluation a field.

    Nothing is sampled before values are asked for, and then block by block in time. Member k of
    a record depends on ``seed``, the record's time (its index, if it has no time coordinate) and
    k alone: not on the other records, their chunks, or how many members are asked for.

    Name, attributes, coordinates and encoding are those of ``obs``, but for what a larger array
    cannot keep: its layout in a file, and the packing to integers, whose range members may leave.

    Args:
        obs: Observed fields on the model's domain, NaN where not observed: dims (time, lat, lon),
            (time, cells), (time, y, x) or (time, node), in any order or without time. Latitude may
            run either way, and HEALPix cells and stations be in another order; see
            `apsgeo.domains.layout.layout_of`. Channels are along a dim channel, band or rgb, or
            the variables of a data set, as the history's were. With dask, values are checked block
            by block as they are computed.
        posterior: The model, from `apsgeo.load` or `apsgeo.distill`.
        members: Size of the ensemble.
        seed: Not negative.
        noise_std: Standard deviation of the observations' noise in the units of ``obs``: a number,
            or one a cell, by its dims or flat, as ``obs`` has them, or one a channel, by its dim;
            by default the posterior's.

    Returns:
        Members (member, time, lat, lon), or with the other dims of ``obs``, dask, in its dtype;
        NaN where the model's variable has no values (land).

    Raises:
        GridError: If the coordinates are invalid or are not those of the model's domain.
        UnitsError: If both units are known and differ.
        InputError: If ``obs`` has infinite values or no gap, or another argument cannot be used.

    Warns:
        NothingObservedWarning: If a record has no observation; it gets draws of the prior.

    Examples:
        >>> ensemble = apsgeo.impute(obs, apsgeo.load("ncep-air"), members=64)  # doctest: +SKIP
        >>> ensemble.quantile([0.05, 0.95], "member").compute()  # doctest: +SKIP
    """
    from apsgeo.domains.layout import layout_of  # brings in torch

    _check_types(obs, posterior)
    if isinstance(obs, xr.Dataset):
        array = as_array(obs)
        check_variables(array, posterior.name, given="obs", wanted="the model")
        return as_variables(impute(array, posterior, members, seed, noise_std), obs)
    members, seed = integer(members, "members", least=1), integer(seed, "seed", least=0)
    check_floating(obs)
    check_units(obs, posterior.units)
    layout = layout_of(obs, posterior.domain, given="obs", wanted="the model")
    obs = layout.ordered(obs)
    valid = _valid(layout, obs, posterior)
    sampler = _Sampler(
        posterior=posterior,
        members=members,
        seed=seed,
        noise_std=node_noise(noise_std, obs, valid, layout),
        layout=layout,
        dtype=obs.dtype,
    )
    table = record_table(obs, layout.cells, posterior.normals.seasons)
    checked = _checked_blocks(obs, valid, table, members)
    drawn = _over_records(sampler, checked, table, members)
    return _labelled(drawn if obs.ndim > valid.ndim else drawn[:, 0], obs, sampler)


def _valid(layout: Layout, obs: xr.DataArray, posterior: Posterior) -> NDArray[np.bool_]:
    """Tell where the model has values, by the cells of a record of obs."""
    shape = tuple(obs.sizes[dim] for dim in layout.cells)
    given, wanted = len(shape) - len(layout.dims) and shape[0], posterior.normals.mean.shape[1]
    if max(given, 1) != wanted:
        raise GridError(
            f"obs has {max(given, 1)} channels, and the model {wanted}; give the variables or "
            "colours of its history"
        )
    return np.broadcast_to(layout.places(posterior.normals.valid.numpy()), shape)


def write_ensemble(
    ensemble: xr.DataArray,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    attrs: Mapping[str, Any] | None = None,
) -> Path:
    """Write an ensemble as CF netCDF, compressed and atomically, drawing it block by block.

    The same ensemble gives the same bytes. There is a progress bar if it takes long.

    Args:
        ensemble: (member, ...), from `impute`.
        path: The file to make.
        overwrite: Replace a file that is already there.
        attrs: Of the file as a whole, such as ``title``.

    Raises:
        OutputExistsError: If something is at ``path`` and ``overwrite`` is false.
        InputError: If the ensemble has no name, or its values cannot be used (with dask).
    """
    from dask.diagnostics.progress import ProgressBar

    from apsgeo.io import write_netcdf

    dataset = ensemble.to_dataset(name=_name(ensemble))
    dataset.attrs = {"Conventions": CONVENTIONS, "source": f"apsgeo {apsgeo.__version__}"}
    dataset.attrs |= attrs or {}
    for coordinate in dataset.coords.values():
        if coordinate.attrs.get("bounds", "") not in {"", *dataset.variables}:
            del coordinate.attrs["bounds"]  # CF demands what it names, which is not here
    encoding = {**ensemble.encoding, "chunksizes": _field_shape(ensemble)}
    encoding.pop("coordinates", None)  # xarray finds them anew, and takes neither here
    if (mapping := encoding.pop("grid_mapping", None)) in dataset.coords:
        dataset[_name(ensemble)].attrs["grid_mapping"] = mapping
    if not any(encoding.get(name) for name in _COMPRESSIONS):
        encoding |= {"zlib": True, "complevel": 4, "shuffle": True}
    with ProgressBar(minimum=2.0, out=sys.stderr):
        return write_netcdf(dataset, path, overwrite, {_name(ensemble): encoding})


def _field_shape(ensemble: xr.DataArray) -> tuple[int, ...]:
    """Return the shape with one member and one record, which is what is drawn in blocks."""
    chunks = ensemble.chunks or ((),) * ensemble.ndim
    return tuple(
        1 if dim in ("member", "time") or len(blocks) > 1 else ensemble.sizes[dim]
        for dim, blocks in zip(ensemble.dims, chunks, strict=True)
    )


def _name(ensemble: xr.DataArray) -> str:
    if ensemble.name is None:
        raise InputError(
            "the ensemble has no name for its variable; use .rename('air') or the like"
        )
    return str(ensemble.name)


@xr.register_dataarray_accessor("aps")
class ApsAccessor:
    """What apsgeo does with a DataArray, as ``array.aps``."""

    def __init__(self, obs: xr.DataArray) -> None:
        self._obs = obs

    @property
    def domain(self) -> Domain:
        """The domain that the labels say: see `apsgeo.domain_of`."""
        from apsgeo.domains.layout import domain_of

        return domain_of(self._obs)

    def regrid(
        self,
        target: Domain | xr.DataArray,
        method: Literal["bilinear", "conservative"] = "bilinear",
    ) -> xr.DataArray:
        """Bring it to another domain: see `apsgeo.regrid`."""
        from apsgeo.domains.labelled import regrid

        return regrid(self._obs, target, method)

    def impute(
        self,
        posterior: Posterior,
        members: int = 64,
        seed: int = 0,
        noise_std: float | ArrayLike | xr.DataArray | None = None,
    ) -> xr.DataArray:
        """Fill the gaps with an ensemble: see `apsgeo.impute`."""
        return impute(self._obs, posterior, members=members, seed=seed, noise_std=noise_std)


@dataclass(frozen=True)
class _Sampler:
    """Draws the members of a block of records.

    Attributes:
        noise_std: a number or (node,) in the model's order; None for the posterior's own.
        layout: which dims of the records are the model's nodes.
    """

    posterior: Posterior
    members: int
    seed: int
    noise_std: Tensor | None
    layout: Layout
    dtype: np.dtype[Any]

    def __call__(self, values: NDArray[Any], records: NDArray[np.void]) -> NDArray[Any]:
        """Return members (member, record, ...) of values (record, ...)."""
        import torch

        nodes = np.array(self.layout.channel_nodes(values), dtype=np.float32)
        drawn = self.posterior.sample_members(
            torch.from_numpy(nodes),
            torch.from_numpy(records["season"].copy()),
            records["key"],
            self.members,
            self.seed,
            noise_std=self.noise_std,
        )
        return self.layout.channel_places(drawn.cpu().numpy()).astype(self.dtype)


def _check_types(obs: Any, posterior: Any) -> None:
    if not isinstance(obs, xr.DataArray | xr.Dataset):
        raise InputError(f"obs is a {type(obs).__name__}; expected an xarray.DataArray or Dataset")
    if not hasattr(posterior, "sample_members"):
        raise InputError(
            f"posterior is a {type(posterior).__name__}; expected a Posterior: open a saved one "
            "with apsgeo.load, or make one of a prior with apsgeo.distill"
        )


def _checked_blocks(
    obs: xr.DataArray, valid: NDArray[np.bool_], table: NDArray[np.void], members: int
) -> dask.array.Array:
    """Return (record, ...) in blocks of a few records, checked now or when computed."""
    import dask.array as da

    data = obs.data if obs.ndim > valid.ndim else obs.data[None]
    whole_cells = (-1,) * valid.ndim
    most = max(1, _BLOCK_BYTES // (members * valid.size * obs.dtype.itemsize))
    if not isinstance(data, da.Array):
        data = np.asarray(data)
        check_values(data, valid, table["name"], whole=True)
        return da.from_array(data, chunks=(most, *whole_cells), name=False)
    whole = data.numblocks[0] == 1

    def check(values: NDArray[Any], records: NDArray[np.void]) -> NDArray[Any]:
        check_values(values, valid, records["name"], whole=whole)
        return values

    data = data.rechunk((data.chunks[0], *whole_cells))
    checked = _over_records(check, data, table)
    pieces = [min(most, size - start) for size in data.chunks[0] for start in range(0, size, most)]
    return checked.rechunk((tuple(pieces), *whole_cells))


def _over_records(
    func: Callable[[NDArray[Any], NDArray[np.void]], NDArray[Any]],
    data: dask.array.Array,
    table: NDArray[np.void],
    members: int | None = None,
) -> dask.array.Array:
    """Call ``func`` on the blocks of data (record, ...) and the same records of the table.

    With ``members``, it adds a first axis of that size.
    """
    import dask.array as da

    axes = tuple(range(data.ndim))
    out = axes if members is None else (_MEMBER, *axes)
    return da.blockwise(
        func,
        out,
        data,
        axes,
        da.from_array(table, chunks=data.chunks[:1], name=False),
        axes[:1],
        new_axes=None if members is None else {_MEMBER: members},
        concatenate=True,
        # A name of its own spares dask from hashing the model.
        name=f"impute-{uuid.uuid4().hex}",
        meta=np.empty((0,) * len(out), dtype=data.dtype),
    )


def _labelled(members: dask.array.Array, obs: xr.DataArray, sampler: _Sampler) -> xr.DataArray:
    """Give (member, ...) the labels of obs, and say how it was made."""
    noise = sampler.posterior.noise_std if sampler.noise_std is None else sampler.noise_std
    least, most = float(noise.min()), float(noise.max())
    member = xr.Variable(
        "member",
        np.arange(sampler.members),
        {"standard_name": "realization", "long_name": "ensemble member"},
    )
    attrs = {
        "apsgeo_version": apsgeo.__version__,
        "noise_std": least if least == most else f"{least:g} to {most:g}",
        "seed": sampler.seed,
    }
    ensemble = xr.DataArray(
        members,
        dims=("member", *obs.dims),
        coords={**obs.coords, "member": member},
        name=obs.name,
        attrs={**obs.attrs, **attrs},
    )
    packed = np.dtype(obs.encoding.get("dtype", obs.dtype)).kind != "f"
    dropped = _LAYOUT + (_PACKING if packed else ())
    ensemble.encoding = {k: v for k, v in obs.encoding.items() if k not in dropped}
    return ensemble
