"""A prior from one gappy field or a few, without a history, and its posterior."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.eofs import EOFs
from apsgeo.gaussian.random_field.coordinates import coordinates_of
from apsgeo.gaussian.random_field.fit import FieldSpec, fit_terms
from apsgeo.gaussian.random_field.prior import RandomFieldPrior
from apsgeo.gaussian.random_field.scales import RandomField, RandomFieldScales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.labels.noise import NoiseStd, joined, node_noise, record_noise
from apsgeo.labels.records import Records, static_fields
from apsgeo.measurement import Normals
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior

__all__ = ["fit_random_field", "lacks_history", "random_field_posterior"]

Array = NDArray[np.float64]

FEWEST_HISTORY = 24
"""Records from which on fields are a history, whose own covariance is learned."""

_FEWEST = 3  # observations that a mean and a spread are learned from
_LINEAR = 20  # observations for each coefficient of the mean beside the constant
_LEAST_STD = 1e-6  # least spread, as a share of the largest value
_EXACT = 1e-3  # noise of observations that are taken as they are, in standard deviations
_OBSERVATIONS, _BEFORE, _BLOCK = 100, 40, 16


def lacks_history(records: Records) -> bool:
    """Tell whether records are too few for a history, and miss values that others do not."""
    if records.dim is None:
        return bool(records.array.isnull().any())
    if len(records) >= FEWEST_HISTORY:
        return False
    missing = torch.isnan(records.values)
    return bool((missing.any(0) & ~missing.all(0)).any()) or (
        len(records) == 1 and bool(missing.any())
    )


def fit_random_field(
    obs: xr.DataArray | xr.Dataset | Records,
    domain: Domain | None = None,
    *,
    static: xr.DataArray | xr.Dataset | None = None,
    noise_std: NoiseStd | None = None,
    spec: FieldSpec | None = None,
    seed: int = 0,
    progress: bool = True,
) -> FieldPrior:
    """Learn a random field from one gappy field or a few, without a history.

    The mean is linear in the coordinates and in static fields. About it there is a sum of Matern
    fields, each with its own variance, range, smoothness and direction, and a nugget; variance and
    range follow the place where there are observations enough. They are found by the likelihood of
    what was observed and by the prediction of observations that moved gaps hide; see
    `apsgeo.gaussian.random_field.fit.fit_terms`.

    Args:
        obs: Fields ([record,] ...) of one variable, NaN where not observed. Several records share
            their parameters; nodes that are NaN in all of them are taken for land.
        domain: Domain of the fields, if their labels do not say it.
        static: Static fields of the nodes, such as orography, that the mean depends on.
        noise_std: Standard deviation of the observations' noise, which is no part of the field; see
            `apsgeo.impute`. By default observations are taken as they are.
        spec: How to fit.
        seed: Seed of all random choices.
        progress: Whether to show a bar.

    Raises:
        InputError: If there are several channels, or fewer than three observations.
        GridError: If the labels do not say the domain, or do not fit the one given.
    """
    given = "obs" if not isinstance(obs, Records) else obs.given
    records = obs if isinstance(obs, Records) else Records.of(obs, domain, given=given)
    if records.channels != 1:
        raise InputError(
            f"{given} has {records.channels} channels, and without a history each is fitted alone; "
            "select one, or call apsgeo.impute, which takes them one by one."
        )
    domain, values = records.layout.domain, records.values[:, 0].numpy()
    seen = np.isfinite(values)
    if np.isinf(values).any():
        raise InputError(
            f"{given} has {np.isinf(values).sum()} infinite values; set them to NaN: "
            ".where(np.isfinite(obs))"
        )
    if seen.sum() < _FEWEST:
        raise InputError(
            f"{given} has {seen.sum()} observations, and at least {_FEWEST} are needed to learn a "
            "mean and a spread; give more, or a model that was fitted to a history."
        )
    valid = np.ones(domain.num_nodes, dtype=bool) if len(values) == 1 else seen.any(0)
    place = coordinates_of(domain)
    regressors = _regressors(place, static, domain, int(seen.sum()))
    mean, std = _least_squares(regressors, values)
    noise_var = np.square(_relative_noise(noise_std, records, std))
    trend = torch.from_numpy(regressors).float()
    terms, bumps = fit_terms(
        place,
        (values - mean) / std,
        noise_var,
        valid,
        trend,
        spec or FieldSpec(),
        seed=seed,
        progress=progress,
    )
    gaussian = _as_seasonal(RandomField(domain, terms, bumps, trend))
    shape = (1, 1, domain.num_nodes)
    return FieldPrior(
        domain=domain,
        normals=Normals(
            torch.from_numpy(mean).float().reshape(shape),
            torch.full(shape, std),
            torch.from_numpy(valid),
        ),
        gaussian=gaussian,
        anchor=gaussian,
        units=records.units,
        variable=records.name,
        history=records,
        provenance={
            "records": len(records),
            "observations": int(seen.sum()),
            "covariance": repr(gaussian.annual),
            "seed": seed,
        },
    )


def random_field_posterior(prior: FieldPrior, noise_std: Tensor | float | None = None) -> Posterior:
    """Return the posterior of a prior of `fit_random_field`, by near observations and values.

    Args:
        prior: The prior.
        noise_std: Standard deviation of the noise; by default observations are taken as they are,
            up to a thousandth of the field's standard deviation.
    """
    noise = _EXACT * prior.normals.std.max() if noise_std is None else noise_std
    method = VecchiaPrior(prior.anchor, observations=_OBSERVATIONS, before=_BEFORE, block=_BLOCK)
    return Posterior.of(prior, method, Mask(), noise)


def _relative_noise(noise_std: NoiseStd | None, records: Records, std: float) -> Array:
    """Return the noise (record, node), in standard deviations of the field."""
    layout, shape = records.layout, (len(records), records.layout.domain.num_nodes)
    given = joined(noise_std, records)
    if given is None:
        return np.full(shape, _EXACT)
    each = record_noise(given, records, np.ones(layout.shape, dtype=bool))
    if each is not None:
        noise = layout.channel_nodes(np.asarray(each, dtype=np.float64))[:, 0]
        return np.where(np.isnan(noise), 1.0, noise / std)
    of_cells = node_noise(given, records, torch.ones(1, shape[1], dtype=torch.bool))
    assert of_cells is not None
    return np.broadcast_to(of_cells.double().numpy() / std, shape)


def _regressors(
    place: Array, static: xr.DataArray | xr.Dataset | None, domain: Domain, observations: int
) -> Array:
    """Return the patterns (node, q) of the mean, of about unit variance."""
    patterns = [np.ones((len(place), 1))]
    spread = place.std(0)
    varies = spread > 1e-6 * spread.max(initial=0.0)
    if observations >= _LINEAR * int(varies.sum()):
        patterns.append(place[:, varies] / spread[varies])
    if static is not None:
        everywhere = torch.ones(domain.num_nodes, dtype=torch.bool)
        patterns.append(static_fields(static, everywhere, domain).double().numpy().T)
    return np.concatenate(patterns, 1)


def _least_squares(regressors: Array, values: Array) -> tuple[Array, float]:
    """Return the mean (node,), and the root mean square of what it leaves of (record, node)."""
    record, node = np.nonzero(np.isfinite(values))
    seen = values[record, node]
    middle = seen.mean()
    found = np.linalg.lstsq(regressors[node], seen - middle, rcond=None)[0]
    mean = middle + regressors @ found
    left = float(np.sqrt(np.mean((seen - mean[node]) ** 2)))
    least = max(_LEAST_STD * float(np.abs(seen).max()), 1e-30)
    return mean, max(left, least)


def _as_seasonal(field: RandomField) -> SeasonalPrior:
    scales: Any = RandomFieldScales()
    nothing = torch.zeros(0, field.trend.shape[1], dtype=torch.float64)
    eofs = EOFs(field.trend.double()[None], nothing, torch.zeros(0, dtype=torch.long), 1)
    prior = RandomFieldPrior(field.domain, field.terms, field.bumps, field.trend)
    return SeasonalPrior(scales, field, eofs.rounded(), prior.variance)
