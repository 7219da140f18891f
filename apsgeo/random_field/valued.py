"""Values on a manifold at the door: points in, points out, with a model or without."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import InputError
from apsgeo.labels.forms.form import CHANNEL, PLAIN, Form
from apsgeo.labels.records import Records
from apsgeo.posterior import Posterior
from apsgeo.random_field.grains import Grains
from apsgeo.values.mean import frechet_mean
from apsgeo.values.quotient import Rotations
from apsgeo.values.sphere import Sphere
from apsgeo.values.values import Values

__all__ = ["Alone", "fill_valued"]

Array = NDArray[Any]

GRAIN_ANGLE = math.radians(5.0)
"""Angle of rotation between neighbours that parts grains."""


def fill_valued(
    fill: Callable[..., Any],
    obs: Any,
    form: Form,
    posterior: Posterior | None,
    *,
    members: int,
    seed: int,
) -> xr.DataArray | xr.Dataset:
    """Fill fields of values on a manifold, which come back in their form.

    Without a model each coordinate of the logarithm at the mean of all values is a random field of
    its own; of directions each component is, and members are projected. Orientations of crystals
    are filled in grains, `apsgeo.random_field.grains.Grains`; what was observed stays as it is.

    Args:
        fill: Function that fills an array of numbers, given a `posterior`.
        obs: Fields in their form.
        form: The form.
        posterior: Model of the values, if there is one.
        members: Size of the ensemble.
        seed: Seed of the members.
    """
    encoded = form.encode(obs, "obs")
    if posterior is not None:
        drawn = fill(encoded, posterior=replace(posterior, form=PLAIN))
        return form.decode(drawn, obs)
    assert form.values is not None
    if isinstance(form.values.manifold, Rotations) and form.values.manifold.symmetry != "none":
        return form.decode(_in_grains(encoded, form.values.manifold, members, seed), obs)
    chart = Alone.of(form.values, encoded)
    drawn = chart.mapped(
        chart.decode, fill(chart.mapped(chart.encode, encoded), manifold="euclidean")
    )
    return form.decode(drawn, obs)


def _in_grains(encoded: xr.DataArray, manifold: Rotations, members: int, seed: int) -> xr.DataArray:
    """Fill orientations (..., channel) of crystals record by record."""
    records = Records.of(encoded, given="obs")
    positions = records.layout.domain.positions.numpy()
    filled = []
    for key, field in zip(records.dates.key.tolist(), records.values, strict=True):
        points = manifold.project(field.T)
        missing = points.isnan().any(-1)
        whole = points.expand(members, -1, -1).clone()
        words = np.random.SeedSequence([seed, key % 2**64]).generate_state(1)
        own = int(words[0])
        grains = Grains(manifold, positions, points, GRAIN_ANGLE, own)
        whole[:, missing] = grains.members(positions[missing.numpy()], members, own)
        filled.append(whole.mT)
    drawn = records.layout.channel_places(torch.stack(filled, 1).numpy())
    drawn = drawn if records.dim else drawn[:, 0]
    like = records.array
    labels = {name: each for name, each in like.coords.items() if CHANNEL not in each.dims}
    return xr.DataArray(
        drawn.astype(like.dtype),
        dims=("member", *like.dims),
        coords={**labels, "member": np.arange(members)},
        attrs={**like.attrs, "seed": seed},
    )


class Alone:
    """A chart of all values of some fields: about their mean, or their components.

    Args:
        values: Manifold of the values.
        centre: Mean of all points (ambient,).
    """

    def __init__(self, values: Values, centre: torch.Tensor) -> None:
        self.manifold, self.centre = values.manifold, centre
        self.embedded = isinstance(values.manifold, Sphere) and values.chart != "tangent"
        self.frame = self.manifold.frame(centre)

    @classmethod
    def of(cls, values: Values, encoded: xr.DataArray) -> Alone:
        """Find the mean of encoded fields.

        Raises:
            InputError: If nothing was observed.
        """
        points = torch.from_numpy(encoded.transpose(..., CHANNEL).values).double().flatten(0, -2)
        known = points[~points.isnan().any(-1)]
        if len(known) == 0:
            raise InputError("obs has no value at all; give fields in which some are seen")
        if isinstance(values.manifold, Sphere) and values.chart != "tangent":
            return cls(values, known[0])
        return cls(values, frechet_mean(values.manifold, known))

    def encode(self, points: Array) -> Array:
        """Return the numbers (..., channel) of points (..., ambient)."""
        if self.embedded:
            return points
        known = ~np.isnan(points).any(-1, keepdims=True)
        some = torch.from_numpy(np.where(known, points, self.centre.numpy())).double()
        logs = self.manifold.log(self.centre, some)
        found = torch.einsum("ad,...a->...d", self.frame, logs).numpy()
        return np.where(known, found, np.nan).astype(points.dtype)

    def decode(self, numbers: Array) -> Array:
        """Undo `encode`; components are projected."""
        known = ~np.isnan(numbers).any(-1, keepdims=True)
        given = torch.from_numpy(np.where(known, numbers, 0.0)).double()
        if self.embedded:
            points = self.manifold.project(given)
        else:
            points = self.manifold.exp(
                self.centre, torch.einsum("ad,...d->...a", self.frame, given)
            )
        return np.where(known, points.numpy(), np.nan).astype(numbers.dtype)

    def mapped(self, function: Callable[[Array], Array], array: xr.DataArray) -> xr.DataArray:
        """Apply a function to the channels of an array, lazily with dask."""
        coding = function == self.encode and not self.embedded
        size = self.manifold.dim if coding else self.manifold.ambient
        whole = array.chunk({CHANNEL: -1}) if array.chunks else array
        found: xr.DataArray = xr.apply_ufunc(
            function,
            whole,
            input_core_dims=[[CHANNEL]],
            output_core_dims=[[CHANNEL]],
            exclude_dims={CHANNEL},
            keep_attrs=True,
            dask="parallelized",
            output_dtypes=[array.dtype],
            dask_gufunc_kwargs={"output_sizes": {CHANNEL: size}},
        )
        return found
