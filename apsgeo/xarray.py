"""Labelled data in, a lazy labelled ensemble out: `impute`, and the accessor ``.aps``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
import xarray as xr

import apsgeo
from apsgeo.errors import InputError
from apsgeo.files.cf import KEPT_ENCODING, MIDDLE, float_encoding, lasting_attrs
from apsgeo.files.netcdf import unlimited_dims_of
from apsgeo.labels.checks import check_floating, integer

if TYPE_CHECKING:
    import dask.array
    from torch import Tensor

    from apsgeo.domains import Domain
    from apsgeo.labels.noise import NoiseStd
    from apsgeo.labels.quality import Control
    from apsgeo.labels.records import Records
    from apsgeo.operators import LinearMap, Operator
    from apsgeo.posterior import Posterior
    from apsgeo.statistics import Statistic

__all__ = ["ApsAccessor", "impute"]

Fields = TypeVar("Fields", xr.DataArray, xr.Dataset)


@overload
def impute(
    obs: Fields,
    posterior: Posterior | None = None,
    members: int = 64,
    seed: int = 0,
    noise_std: NoiseStd | None = None,
    operator: Operator | None = None,
    quality_control: Control = "flag",
    window: int | None = None,
    *,
    statistics: None = None,
) -> Fields: ...


@overload
def impute(
    obs: xr.DataArray | xr.Dataset,
    posterior: Posterior | None = None,
    members: int = 64,
    seed: int = 0,
    noise_std: NoiseStd | None = None,
    operator: Operator | None = None,
    quality_control: Control = "flag",
    window: int | None = None,
    *,
    statistics: Iterable[str | Statistic] | str,
) -> xr.Dataset: ...


def impute(
    obs: xr.DataArray | xr.Dataset,
    posterior: Posterior | None = None,
    members: int = 64,
    seed: int = 0,
    noise_std: NoiseStd | None = None,
    operator: Operator | None = None,
    quality_control: Control = "flag",
    window: int | None = None,
    *,
    statistics: Iterable[str | Statistic] | str | None = None,
) -> xr.DataArray | xr.Dataset:
    """Draw the complete fields behind observed ones, by one network evaluation for each.

    Without a model, a random field is fitted to the observations themselves: to each variable or
    channel alone, with the same parameters for all records; see
    `apsgeo.random_field.fit.fit_random_field`. It takes minutes for 150 000 cells. The attribute
    ``model`` of the members tells what was found. A model that was fitted to a history knows more.

    A model of masks fills gaps. One of `Downsample` brings coarse fields to the model's grid. One
    of `GaussianBlur` or `Identity` sharpens or denoises fields, which may be complete.

    Nothing is sampled before values are asked for, and then block by block in time. Member k of
    a record depends on ``seed``, the record's time (its index, if it has no time coordinate) and
    k alone: not on the other records, their chunks, or how many members are asked for.

    A model that knows how records follow each other (`Posterior.memory`) draws each given what
    was observed in those before and after it, too, at their distance in time. Its members cohere
    in time: they are made of noise that goes on from record to record.

    With ``statistics`` no member is kept: a data set of lazy variables comes back, all of them from
    one pass over the members, in memory that hardly grows with their number.

    Dims beside those of records and nodes (level, run) are mapped over: each of their places is
    filled alone, with members that are independent of those of the others.

    Name, attributes, coordinates and encoding are those of ``obs``, without what described its own
    values (ranges, fill values, flags) or names variables that are not there, without its layout in
    a file, which a larger array cannot keep, and without packing to integers, whose range members
    may leave. Where ``obs`` is on a coarser domain, or on some of the model's HEALPix pixels, dims
    keep their names, and have the coordinates of the model's domain, in its order.

    Args:
        obs: Observed fields on the model's domain, or on the coarser one that its operator
            measures, NaN where not observed: dims (time, lat, lon), (time, cells), (time, y, x) or
            (time, node), in any order or without time. Latitude may
            run either way, and HEALPix cells and stations be in another order; see
            `apsgeo.labels.layout.layout_of`. Channels are along a dim channel, band or rgb, or
            the variables of a data set, as the history's were. With dask, values are checked block
            by block as they are computed.
        posterior: The model, from `apsgeo.load` or `apsgeo.distill`; by default one that is fitted
            to ``obs`` alone.
        members: Size of the ensemble.
        seed: Seed of the members, not negative.
        noise_std: Standard deviation of the observations' noise in the units of ``obs``: a number,
            one for each observation or each cell, by the dims of ``obs`` or flat, or one for each
            channel, by its dim; or a data set or dict of these by variable. By default the
            posterior's. Where nothing was observed it may be NaN, if it differs by record.
            Without a model the default takes values as they are.
        operator: Operator that measured, where the model is for several; for a model of
            ``OneOf((Mask(), Downsample(2)))``, for instance, ``Downsample(2)``.
        quality_control: What becomes of values more than ten standard deviations (of the prior and
            the noise) from the prior's mean: "flag" uses them, "reject" takes them for missing.
            Either warns, and takes for missing what is no value: well-known fill values so far
            away, and what is a hundred standard deviations away. "off" looks at nothing.
        window: Number of records on either side that each is drawn given, too, at most that of
            the model (`Posterior.window`), which is the default; 0 takes each on its own.
        statistics: What to return in place of the members: names such as ``["mean", "std", "q05",
            "p>0", "area"]``, or objects of `apsgeo.statistics`; see `statistics_of` there.

    Returns:
        Members (member, time, lat, lon), or with the other dims of ``obs``, dask, in its dtype;
        NaN where the model's variable has no values (land). With ``statistics`` a data set of
        variables such as ``air_mean`` and ``air_quantile`` (quantile, time, lat, lon).

    Raises:
        GridError: If the coordinates are invalid or are not those of the domain that is measured.
        UnitsError: If both units are known and differ.
        InputError: If ``obs`` has infinite values, or no gap although a mask measured; if the
            operator is not of the model's family, none of several was chosen, or it measures
            nothing that lives on a domain; or if another argument cannot be used.

    Warns:
        NothingObservedWarning: If a record has no observation; it gets draws of the prior.
        OutlierWarning: If values are far from all that the prior knows.
        OnLandWarning: If there are observations where the model has no values.

    Examples:
        >>> ensemble = apsgeo.impute(obs, apsgeo.load("ncep-air"), members=64)  # doctest: +SKIP
        >>> ensemble.quantile([0.05, 0.95], "member").compute()  # doctest: +SKIP
    """
    from apsgeo.labels.channels import as_variables
    from apsgeo.labels.labels import moved  # brings in torch
    from apsgeo.labels.lazy import Observed, Sampler, draw
    from apsgeo.labels.mapping import mapped, other_dim, seed_at
    from apsgeo.labels.noise import joined, node_noise, record_noise
    from apsgeo.labels.quality import Innovations, check_control
    from apsgeo.operators import RandomMask
    from apsgeo.random_field.alone import impute_alone
    from apsgeo.statistics.summary import summarize

    _check_types(obs, posterior)
    members, seed = integer(members, "members", least=1), integer(seed, "seed", least=0)
    again: Any = impute
    domain = None if posterior is None else posterior.family.on(operator).codomain
    if dim := other_dim(obs, domain):
        return mapped(
            lambda part, noise, place: again(
                part,
                posterior,
                members,
                seed_at(seed, place),
                noise,
                operator,
                quality_control,
                window,
                statistics=statistics,
            ),
            obs,
            dim,
            noise_std,
        )
    if posterior is None:
        _check_no_operator(operator)
        return impute_alone(
            lambda part, noise, fitted: again(
                part, fitted, members, seed, noise, None, quality_control, statistics=statistics
            ),
            obs,
            noise_std,
            seed,
        )
    linear = posterior.family.on(operator)
    operator = posterior.operator if operator is None else operator
    records, normals = _observed(obs, posterior, operator, linear), posterior.normals
    observable = normals.observable(linear)
    like, fields = moved(records.array, records.layout, posterior.domain)
    given: Any = joined(noise_std, records)
    valid = records.layout.channel_places(observable.numpy())
    each = record_noise(given, records, valid)
    sampler = Sampler(
        posterior=posterior,
        members=members,
        seed=seed,
        noise_std=None if each is not None else node_noise(given, records, observable),
        operator=operator,
        measured=records.layout,
        fields=fields,
        channels=records.channels,
        dtype=records.array.dtype,
        window=_window(window, posterior),
    )
    noise = posterior.noise_std if sampler.noise_std is None else sampler.noise_std
    quality = Innovations.of(records, normals, linear, noise, check_control(quality_control))
    gaps = isinstance(operator, RandomMask)
    observed = Observed(records, quality, normals.seasons, each, gaps)
    made = _made(posterior, noise if each is None else None, seed)
    if statistics is not None:
        made["members"] = members
        return summarize(sampler, statistics, observed, _labels(like), made)
    ensemble = _labelled(draw(sampler, observed), like, made)
    return ensemble if records.dataset is None else as_variables(ensemble, records.dataset)


def _check_no_operator(operator: Operator | None) -> None:
    if operator is not None:
        raise InputError(
            f"operator={operator!r} without a model; a random field is fitted to the values of the "
            "nodes alone, so give no operator, or a model."
        )


def _window(window: int | None, posterior: Posterior) -> int:
    """Return the number of records on either side, by default the model's."""
    if window is None:
        return posterior.window
    window = integer(window, "window", least=0)
    if window > posterior.window:
        raise InputError(
            f"window={window}, and the model knows {posterior.window} records on either side; give "
            "as many or fewer, or leave it out."
        )
    return window


def _observed(obs: Any, posterior: Posterior, operator: Operator, linear: LinearMap) -> Records:
    """Read the observed fields, and check that the model fits them."""
    from apsgeo.labels.healpix import onto_pixels
    from apsgeo.labels.records import Records

    if linear.codomain is None:
        raise InputError(
            f"the model's {operator!r} measures nothing that lives on a domain, so labels cannot "
            "say what was observed; give tensors (batch, channel, observation) to posterior(y)"
        )
    here = linear.codomain == posterior.domain
    wanted = "the model" if here else f"the model's {operator!r}"
    records = Records.of(
        onto_pixels(obs, linear.codomain), linear.codomain, given="obs", wanted=wanted
    )
    channels = posterior.normals.channels
    records.check("the model", posterior.variable, posterior.units, channels)
    check_floating(records.array)
    records.dates.check_order()
    return records


@xr.register_dataarray_accessor("aps")
class ApsAccessor:
    """The functions of apsgeo for a DataArray, as ``array.aps``."""

    def __init__(self, obs: xr.DataArray) -> None:
        self._obs = obs

    @property
    def domain(self) -> Domain:
        """The domain that the array's labels say; see `apsgeo.domain_of`."""
        from apsgeo.labels.layout import domain_of

        return domain_of(self._obs)

    def regrid(
        self,
        target: Domain | xr.DataArray,
        method: Literal["bilinear", "conservative"] = "bilinear",
    ) -> xr.DataArray:
        """Bring the array to another domain; see `apsgeo.regrid`."""
        from apsgeo.labels.regridding import regrid

        return regrid(self._obs, target, method)

    def impute(
        self,
        posterior: Posterior | None = None,
        members: int = 64,
        seed: int = 0,
        noise_std: NoiseStd | None = None,
        operator: Operator | None = None,
        quality_control: Control = "flag",
        window: int | None = None,
        *,
        statistics: Iterable[str | Statistic] | str | None = None,
    ) -> Any:
        """Draw the complete fields behind the array; see `apsgeo.impute`."""
        options = (noise_std, operator, quality_control, window)
        return impute(self._obs, posterior, members, seed, *options, statistics=statistics)


def _check_types(obs: Any, posterior: Any) -> None:
    if not isinstance(obs, xr.DataArray | xr.Dataset):
        raise InputError(f"obs is a {type(obs).__name__}; expected an xarray.DataArray or Dataset")
    if posterior is not None and not hasattr(posterior, "family"):
        raise InputError(
            f"posterior is a {type(posterior).__name__}; expected a Posterior: open a saved one "
            "with apsgeo.load, make one of a prior with apsgeo.distill, or of any method with "
            "apsgeo.Posterior.of(prior, method, operator, noise_std), or give none"
        )


def _range(noise: Tensor) -> float | str:
    least, most = float(noise.min()), float(noise.max())
    return least if least == most else f"{least:g} to {most:g}"


def _labels(like: xr.DataArray) -> xr.DataArray:
    """Return an array without the middles of bounds, which reading added to its coordinates."""
    return like.drop_vars([f"{name}{MIDDLE}" for name in like.coords], errors="ignore")


def _made(posterior: Posterior, noise: Tensor | None, seed: int) -> dict[str, Any]:
    """Return attributes that say how members were made.

    Noise is None where each observation has its own.
    """
    made = {
        "apsgeo_version": apsgeo.__version__,
        "noise_std": "of each observation" if noise is None else _range(noise),
        "seed": seed,
    }
    return made if posterior.digest is None else made | {"model_sha256": posterior.digest}


def _labelled(
    members: dask.array.Array, like: xr.DataArray, made: Mapping[str, Any]
) -> xr.DataArray:
    """Give members (member, ...) the labels of `like`, and say how they were made."""
    member = xr.Variable(
        "member",
        np.arange(len(members)),
        {"standard_name": "realization", "long_name": "ensemble member"},
    )
    ensemble = xr.DataArray(
        members,
        dims=("member", *like.dims),
        coords={**_labels(like).coords, "member": member},
        name=like.name,
        attrs={**lasting_attrs(like.attrs, like.coords), **made},
    )
    for coordinate in ensemble.coords.values():
        coordinate.encoding = {k: v for k, v in coordinate.encoding.items() if k in KEPT_ENCODING}
    ensemble.encoding = float_encoding(like.encoding, like.dtype)
    if unlimited := unlimited_dims_of(like):
        ensemble.encoding["unlimited_dims"] = unlimited
    return ensemble
