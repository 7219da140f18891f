"""Labelled data in, a lazy labelled ensemble out: `impute`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import xarray as xr

from apsgeo.errors import InputError
from apsgeo.labels.checks import check_floating, integer
from apsgeo.output.labelled import how_made, labelled, without_middles

if TYPE_CHECKING:
    from apsgeo.labels.forms.form import Form
    from apsgeo.labels.noise import NoiseStd
    from apsgeo.labels.quality import Control
    from apsgeo.labels.records import Records
    from apsgeo.labels.shared import SharedError
    from apsgeo.operators import CellMeans, LinearMap, Operator
    from apsgeo.posterior import Posterior
    from apsgeo.statistics import Statistic

__all__ = ["impute"]


def __getattr__(name: str) -> Any:
    if name == "write_ensemble":  # which scripts of version 0.2 import from here
        from apsgeo.output.write import write_ensemble

        return write_ensemble
    raise AttributeError(f"module 'apsgeo.xarray' has no attribute {name!r}")


Fields = TypeVar("Fields", xr.DataArray, xr.Dataset, Any)


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
    freq: str | None = None,
    shared_error: SharedError | Sequence[SharedError] | None = None,
    manifold: Any = None,
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
    freq: str | None = None,
    shared_error: SharedError | Sequence[SharedError] | None = None,
    manifold: Any = None,
) -> xr.Dataset: ...


def impute(
    obs: Any,
    posterior: Posterior | None = None,
    members: int = 64,
    seed: int = 0,
    noise_std: NoiseStd | None = None,
    operator: Operator | None = None,
    quality_control: Control = "flag",
    window: int | None = None,
    *,
    statistics: Iterable[str | Statistic] | str | None = None,
    freq: str | None = None,
    shared_error: SharedError | Sequence[SharedError] | None = None,
    manifold: Any = None,
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

    Observations may be a table, too, of any numbers of values at any places and times: stations,
    ships, floats, tracks. Its columns are known by their usual names: time, lat and lon (y and x on
    an image, x, y and z on a mesh that is no sphere), value or the name of the model's variable (a
    column for each of several, or one called variable), error, units, and any others, such as
    instrument. What is measured is the field between the nodes about each place; see
    `apsgeo.PointSample`. Records are the times binned to the steps of the model's history, and the
    ensemble is on the model's domain. A flow is trained for masks or other operators, and knows no
    points: members are drawn by the Gaussian method that it starts from, `Posterior.linear_method`,
    as the attribute ``method`` says. A list of tables is one of instruments.

    Args:
        obs: Observed fields on the model's domain, or on the coarser one that its operator
            measures, NaN where not observed: dims (time, lat, lon), (time, cells), (time, y, x) or
            (time, node), in any order or without time. Latitude may
            run either way, and HEALPix cells and stations be in another order; see
            `apsgeo.labels.layout.layout_of`. Channels are along a dim channel, band or rgb, or
            the variables of a data set, as the history's were. With dask, values are checked block
            by block as they are computed. Or a table (pandas, or what has ``to_pandas``), or a list
            of tables.
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
            ``OneOf((Mask(), Downsample(2)))``, for instance, ``Downsample(2)``. ``CellMeans()``
            is for observations of any other resolution, which are means over their own cells;
            members are then drawn by `Posterior.linear_method`.
        quality_control: What becomes of values more than ten standard deviations (of the prior and
            the noise) from the prior's mean: "flag" uses them, "reject" takes them for missing.
            Either warns, and takes for missing what is no value: well-known fill values so far
            away, and what is a hundred standard deviations away. "off" looks at nothing.
        window: Number of records on either side that each is drawn given, too, at most that of
            the model (`Posterior.window`), which is the default; 0 takes each on its own.
        statistics: What to return in place of the members: names such as ``["mean", "std", "q05",
            "p>0", "area"]``, or objects of `apsgeo.statistics`; see `statistics_of` there.
        freq: Step of the records of a table: "MS" for months, "YS", or such as "D", "5D" and "6h";
            by default that of the model's history.
        shared_error: Errors that observations share beside their noise: a bias of each instrument
            or swath, ``SharedError(0.3, by="instrument")``, or several. Each record is then drawn
            on its own, without those around it.
        manifold: Without a model, what values lie on, as for `apsgeo.fit_prior`. A model knows.

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
        LeftOutWarning: If rows of a table are off the model's domain, or are there twice.

    Examples:
        >>> ensemble = apsgeo.impute(obs, apsgeo.load("ncep-air"), members=64)  # doctest: +SKIP
        >>> ensemble.quantile([0.05, 0.95], "member").compute()  # doctest: +SKIP
    """
    from apsgeo.labels.channels import as_variables
    from apsgeo.labels.forms.form import Plain
    from apsgeo.labels.forms.reading import form_of
    from apsgeo.labels.labels import moved  # brings in torch
    from apsgeo.labels.lazy import Observed, Sampler, draw, reduce
    from apsgeo.labels.mapping import mapped, other_dim, seed_at
    from apsgeo.labels.noise import joined, node_noise, record_noise
    from apsgeo.labels.quality import Innovations, check_control
    from apsgeo.labels.shared import GridErrors, check_errors, widest
    from apsgeo.operators import CellMeans, RandomMask
    from apsgeo.random_field.alone import impute_alone
    from apsgeo.random_field.valued import fill_valued
    from apsgeo.statistics.summary import summarize

    _check_types(obs, posterior)
    if not isinstance(obs, xr.DataArray | xr.Dataset):
        options = members, seed, noise_std, operator, quality_control, window, statistics
        return _impute_tables(obs, posterior, *options, freq, check_errors(shared_error))
    if freq is not None:
        raise InputError(f"freq={freq!r} is for tables; resample fields beforehand: obs.resample")
    members, seed = integer(members, "members", least=1), integer(seed, "seed", least=0)
    if isinstance(operator, CellMeans) and posterior is not None:
        posterior, operator = _taking_means(posterior, operator, obs)
    again: Any = impute
    form = form_of(obs, manifold, given="obs") if posterior is None else posterior.form
    if not isinstance(form, Plain):
        _check_no_statistics(statistics, form)
        more = {
            "noise_std": noise_std,
            "operator": operator,
            "quality_control": quality_control,
            "window": window,
            "shared_error": shared_error,
        }
        return fill_valued(
            lambda part, **own: again(part, members=members, seed=seed, **{**more, **own}),
            obs,
            form,
            posterior,
            members=members,
            seed=seed,
        )
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
                shared_error=shared_error,
            ),
            obs,
            dim,
            noise_std,
        )
    if posterior is None:
        _check_no_operator(operator)
        if shared_error is not None:
            raise InputError(
                "shared_error= needs a model; give one of apsgeo.load or apsgeo.distill"
            )
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
    errors = check_errors(shared_error)
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
        window=0 if errors else _window(window, posterior),
        shared=GridErrors.of(errors, records) if errors else None,
    )
    noise = posterior.noise_std if sampler.noise_std is None else sampler.noise_std
    quality = Innovations.of(records, normals, linear, noise, check_control(quality_control))
    quality = replace(quality, spread=np.hypot(quality.spread, widest(errors)))
    gaps = isinstance(operator, RandomMask)
    observed = Observed(records, quality, normals.seasons, each, gaps)
    made = how_made(posterior, noise if each is None else None, seed)
    if isinstance(operator, CellMeans):
        made["method"] = posterior.name
    if statistics is not None:
        made["members"] = members
        reduced = partial(reduce, observed=observed)
        return summarize(sampler, statistics, reduced, without_middles(like), records.dataset, made)
    ensemble = labelled(draw(sampler, observed), like, made)
    return ensemble if records.dataset is None else as_variables(ensemble, records.dataset)


def _taking_means(
    posterior: Posterior, operator: CellMeans, obs: Any
) -> tuple[Posterior, CellMeans]:
    """Return a posterior and an operator for means over the cells of labelled observations."""
    from apsgeo.labels.channels import as_array
    from apsgeo.labels.layout import domain_of
    from apsgeo.operators import CellMeans

    if operator.target is None:
        operator = CellMeans(domain_of(as_array(obs)))
    known = posterior.operator.includes(operator)
    return posterior if known else posterior.taking(operator), operator


def _check_no_statistics(statistics: Any, form: Form) -> None:
    if statistics is not None:
        raise InputError(
            f"statistics={statistics!r} of values on {form.values and form.values.manifold!r}; "
            "leave it out, and score the members by apsgeo.metrics.geodesic"
        )


def _check_no_operator(operator: Operator | None) -> None:
    if operator is not None:
        raise InputError(
            f"operator={operator!r} without a model; a random field is fitted to the values of the "
            "nodes alone, so give no operator, or a model."
        )


def _impute_tables(
    obs: Any,
    posterior: Posterior | None,
    members: int,
    seed: int,
    noise_std: Any,
    operator: Operator | None,
    control: Control,
    window: int | None,
    statistics: Iterable[str | Statistic] | str | None,
    freq: str | None,
    errors: tuple[SharedError, ...],
) -> xr.DataArray | xr.Dataset:
    """Draw the fields behind one table or several."""
    from apsgeo.labels.quality import check_control
    from apsgeo.statistics.summary import summarize
    from apsgeo.table.draw import PointSampler, Tables

    if posterior is None:
        raise InputError(
            "a table needs a model, which says where the fields are to be; give one of "
            "apsgeo.load or apsgeo.distill",
            shell="apsgeo impute OBS.csv MODEL filled.nc",
        )
    if operator is not None:
        raise InputError(f"operator={operator!r} for a table, whose rows say what they measure")
    members, seed = integer(members, "members", least=1), integer(seed, "seed", least=0)
    frames = obs if isinstance(obs, list | tuple) else [obs]
    window = 0 if errors else _window(window, posterior)
    tables = Tables.of(frames, posterior, noise_std, check_control(control), freq, errors)
    sampler = PointSampler(posterior, members, seed, tables.layout, window, errors)
    made = how_made(posterior, None, seed) | {"method": posterior.linear_method.name}
    dataset = tables.dataset
    if statistics is not None:
        made["members"] = members
        reduced = partial(tables.reduce, window=window)
        return summarize(sampler, statistics, reduced, tables.like, dataset, made)
    ensemble = labelled(tables.draw(sampler), tables.like, made)
    if dataset is None:
        return ensemble
    variables = ensemble.to_dataset("variable")
    for name, array in variables.data_vars.items():
        array.attrs = {**made, **dataset[name].attrs}
    return variables


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
    from apsgeo.labels.steps import warn_of_shorter_steps

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
    channels = posterior.normals.data_channels
    records.check("the model", posterior.variable, posterior.units, channels)
    check_floating(records.array)
    records.dates.check_order()
    if posterior.normals.seasons > 1:
        records.dates.warn_of_lost_bounds()
    warn_of_shorter_steps(records.dates, posterior.step_days)
    return _covered(records, linear)


def _covered(records: Records, linear: LinearMap) -> Records:
    """Return records without observations that measure nothing: cells off the model's domain."""
    from apsgeo.operators.linear import SparseMap

    if not isinstance(linear, SparseMap):
        return records
    covered = records.layout.places(np.asarray(linear.matrix.sum(axis=1) != 0))
    if covered.all():
        return records
    here = xr.DataArray(covered, dims=records.layout.dims)
    encoding, attrs = records.array.encoding, records.array.attrs
    array = records.array.where(here).transpose(*records.array.dims).assign_attrs(attrs)
    array.encoding = encoding
    return replace(records, array=array)


def _check_types(obs: Any, posterior: Any) -> None:
    from apsgeo.table.read import is_table

    tables = isinstance(obs, list | tuple) and len(obs) > 0 and all(map(is_table, obs))
    if not (isinstance(obs, xr.DataArray | xr.Dataset) or tables or is_table(obs)):
        raise InputError(
            f"obs is a {type(obs).__name__}; expected an xarray.DataArray or Dataset, or a table "
            "of pandas"
        )
    if posterior is not None and not hasattr(posterior, "family"):
        raise InputError(
            f"posterior is a {type(posterior).__name__}; expected a Posterior: open a saved one "
            "with apsgeo.load, make one of a prior with apsgeo.distill, or of any method with "
            "apsgeo.Posterior.of(prior, method, operator, noise_std), or give none"
        )
