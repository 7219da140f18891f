"""Forms of data sets: directions by their components, several angles at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import xarray as xr

from apsgeo.errors import InputError
from apsgeo.files.cf import float_encoding, lasting_attrs
from apsgeo.labels.channels import as_array
from apsgeo.labels.forms.arrays import Angle
from apsgeo.labels.forms.form import CHANNEL, Form
from apsgeo.values.values import Values

__all__ = ["Angles", "Components"]

_CALM = 1e-12


@dataclass(frozen=True)
class Components(Form):
    """Directions by the components of vectors, each a variable, such as u and v.

    The length of the vectors is left out, but in a history where the chart of the values is
    "projected": members are unit vectors.

    Attributes:
        values: Manifold of the directions.
        names: Names of the variables.
    """

    values: Values
    names: tuple[str, ...]
    kind: ClassVar[str] = "components"

    def encode(self, obs: Any, given: str) -> Any:
        """Return unit vectors along `CHANNEL`, NaN where a vector is zero or misses a part.

        Where the chart is "projected" vectors keep their lengths.
        """
        chosen = _variables(obs, self.names, given)
        stacked = as_array(chosen).rename(variable=CHANNEL).drop_vars(CHANNEL)
        length = (stacked**2).sum(CHANNEL, skipna=False) ** 0.5
        if self.values.chart == "projected":
            whole = stacked.where(length.notnull())
            return whole.rename(", ".join(self.names))
        directions = stacked / length.where(length > _CALM)
        return directions.rename(", ".join(self.names))

    def decode(self, ensemble: Any, obs: Any) -> Any:
        """Return a data set of the components of unit vectors."""
        members = xr.Dataset(
            {
                name: ensemble.isel({CHANNEL: place}, drop=True)
                for place, name in enumerate(self.names)
            },
            attrs=obs.attrs,
        )
        for name in self.names:
            kept = lasting_attrs(obs[name].attrs, obs.variables)
            members[name].attrs = {**kept, **ensemble.attrs, "units": "1"}
            members[name].encoding = float_encoding(obs[name].encoding, ensemble.dtype)
        return members

    def to_config(self) -> dict[str, Any] | None:
        """Return names and manifold."""
        return {"kind": self.kind, "names": self.names, "values": self.values.to_config()}


@dataclass(frozen=True)
class Angles(Form):
    """Several angles, each a variable of its own units and period: points of a torus.

    Attributes:
        values: Manifold, a product of circles.
        angles: Form of each variable.
    """

    values: Values
    angles: dict[str, Angle]
    kind: ClassVar[str] = "angles"

    def encode(self, obs: Any, given: str) -> Any:
        """Return the (cos, sin) of all angles along `CHANNEL`."""
        chosen = _variables(obs, tuple(self.angles), given)
        each = [form.encode(chosen[name], given) for name, form in self.angles.items()]
        joined = xr.concat(each, CHANNEL, combine_attrs="drop")
        return joined.rename(", ".join(self.angles))

    def decode(self, ensemble: Any, obs: Any) -> Any:
        """Return a data set of the angles."""
        parts = {
            name: form.decode(ensemble.isel({CHANNEL: slice(2 * k, 2 * k + 2)}), obs[name])
            for k, (name, form) in enumerate(self.angles.items())
        }
        return xr.Dataset(parts, attrs=obs.attrs)

    def to_config(self) -> dict[str, Any] | None:
        """Return the angles and the manifold."""
        angles = {name: form.to_config() for name, form in self.angles.items()}
        return {"kind": self.kind, "angles": angles, "values": self.values.to_config()}


def _variables(obs: xr.DataArray | xr.Dataset, names: tuple[str, ...], given: str) -> xr.Dataset:
    if not isinstance(obs, xr.Dataset) or any(name not in obs for name in names):
        held = list(obs.data_vars) if isinstance(obs, xr.Dataset) else f"the array {obs.name}"
        raise InputError(f"{given} has {held}; a data set with {', '.join(names)} was expected")
    return obs[list(names)]
