"""A form: between the numbers that users write values in, and points of a manifold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import InputError
from apsgeo.files.cf import float_encoding, lasting_attrs
from apsgeo.values.values import Values

__all__ = ["CHANNEL", "PLAIN", "ArrayForm", "Form", "Plain"]

CHANNEL = "channel"
"""The dim along which a point's numbers lie in an encoded array."""

Array = NDArray[Any]


class Form(ABC):
    """How the values of a field are written in labelled data.

    Attributes:
        kind: Name in configurations.
        values: Manifold of the values; None for ordinary numbers.
    """

    kind: ClassVar[str]
    values: Values | None

    @abstractmethod
    def encode(self, obs: Any, given: str) -> Any:
        """Return fields as points along `CHANNEL`, lazily with dask, NaN where there is none.

        Args:
            obs: Fields in this form.
            given: Name of the fields in messages.

        Raises:
            InputError: If they are not in this form, or not on the manifold.
        """

    @abstractmethod
    def decode(self, ensemble: Any, obs: Any) -> Any:
        """Return members of encoded fields in this form, with the labels of obs."""

    @abstractmethod
    def to_config(self) -> dict[str, Any] | None:
        """Return what rebuilds it, for JSON."""


@dataclass(frozen=True)
class Plain(Form):
    """Ordinary numbers, as they are."""

    kind: ClassVar[str] = "plain"
    values: Values | None = None

    def encode(self, obs: Any, given: str) -> Any:
        """Return the fields."""
        return obs

    def decode(self, ensemble: Any, obs: Any) -> Any:
        """Return the members."""
        return ensemble

    def to_config(self) -> dict[str, Any] | None:
        """Return the manifold, if there is one (a Euclidean space)."""
        if self.values is None:
            return None
        return {"kind": self.kind, "values": self.values.to_config()}


PLAIN = Plain()
"""The form of ordinary numbers."""


@dataclass(frozen=True)
class ArrayForm(Form):
    """A form of one array, whose last dims hold the numbers of a value.

    Attributes:
        values: Manifold of the values.
        dims: Names of the dims of a value, none for a number.
    """

    values: Values
    dims: tuple[str, ...] = ()

    @abstractmethod
    def points(self, numbers: Array) -> Array:
        """Return points (..., ambient) of numbers (..., *dims); NaN goes to NaN."""

    @abstractmethod
    def numbers(self, points: Array) -> Array:
        """Return numbers (..., *dims) of points (..., ambient)."""

    def check_labels(self, obs: xr.DataArray, given: str) -> None:
        """Check units and the like of an array; nothing by default."""

    def encode(self, obs: Any, given: str) -> Any:
        """Return an array as points along `CHANNEL`."""
        if isinstance(obs, xr.Dataset) or any(dim not in obs.dims for dim in self.dims):
            held = list(obs.data_vars) if isinstance(obs, xr.Dataset) else dict(obs.sizes)
            raise InputError(
                f"{given} has {held}; an array of {self.values.manifold!r} with the dims "
                f"{self.dims or 'of places alone'} was expected, as the history was"
            )
        self.check_labels(obs, given)
        array = obs if obs.dtype.kind == "f" else obs.astype(np.float32)
        manifold = self.values.manifold

        def points(numbers: Array) -> Array:
            found = self.points(numbers.astype(np.float64))
            self.values.check(torch.from_numpy(found.reshape(-1, manifold.ambient)).T, given)
            return found.astype(numbers.dtype)

        encoded = xr.apply_ufunc(
            points,
            array.chunk(dict.fromkeys(self.dims, -1)) if array.chunks else array,
            input_core_dims=[self.dims],
            output_core_dims=[[CHANNEL]],
            exclude_dims=set(self.dims),
            keep_attrs=True,
            dask="parallelized",
            output_dtypes=[array.dtype],
            dask_gufunc_kwargs={"output_sizes": {CHANNEL: manifold.ambient}},
        )
        encoded.encoding = dict(obs.encoding)
        kept = [name for name, each in encoded.coords.items() if CHANNEL in each.dims]
        return encoded.drop_vars(kept)

    def decode(self, ensemble: Any, obs: Any) -> Any:
        """Return members in this form, with the dims and coordinates of obs."""
        sizes = {dim: obs.sizes[dim] for dim in self.dims}
        whole = ensemble.chunk({CHANNEL: -1}) if ensemble.chunks else ensemble
        members = xr.apply_ufunc(
            lambda points: self.numbers(points.astype(np.float64)).astype(points.dtype),
            whole,
            input_core_dims=[[CHANNEL]],
            output_core_dims=[self.dims],
            exclude_dims={CHANNEL},
            keep_attrs=True,
            dask="parallelized",
            output_dtypes=[ensemble.dtype],
            dask_gufunc_kwargs={"output_sizes": sizes},
        )
        own = {n: c for n, c in obs.coords.items() if set(c.dims) & set(self.dims)}
        members = members.assign_coords(own)
        first = [dim for dim in members.dims if dim not in obs.dims]
        members = members.transpose(*first, *(d for d in obs.dims if d in members.dims))
        members.name = obs.name
        members.attrs = {**lasting_attrs(obs.attrs, obs.coords), **members.attrs}
        members.encoding = float_encoding(obs.encoding, members.dtype)
        if "unlimited_dims" in ensemble.encoding:
            members.encoding["unlimited_dims"] = ensemble.encoding["unlimited_dims"]
        return members

    def to_config(self) -> dict[str, Any] | None:
        """Return the attributes, with the kind."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"kind": self.kind, **own, "values": self.values.to_config()}
