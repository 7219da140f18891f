"""Methods that fill one gappy field with nothing but itself: ours, and those of statisticians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from apsgeo.gaussian.random_field.coordinates import coordinates_of
from apsgeo.labels.records import Records
from apsgeo.random_field.fit import fit_random_field, random_field_posterior

__all__ = ["MEMBERS", "Prediction", "methods"]

MEMBERS = 100
_NEAR, _TRAINED, _FIRST = 120, 30, 2500
_JITTER = 1e-8
_LOCAL = 20  # neighbours of GPBoost's Vecchia approximation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """What a method says of each node: mean and standard deviation, and a member to look at."""

    mean: Array
    std: Array
    member: Array | None = None


Fill = Callable[[xr.DataArray, float, int], Prediction]
"""Fill a field whose observations have a noise of a known standard deviation, with a seed."""


def random_field(observed: xr.DataArray, noise: float, seed: int) -> Prediction:
    """Fit a random field to the observations, and draw members."""
    records, known = Records.of(observed), noise or None
    prior = fit_random_field(records, noise_std=known, seed=seed, progress=False)
    print(repr(prior.anchor.annual), flush=True)
    draws = random_field_posterior(prior, known)(records.values.float())
    members = draws.members(MEMBERS, seed)[:, 0, 0]
    mean, std = draws.mean[0, 0], members.std(0)
    return Prediction(mean.double().numpy(), std.double().numpy(), members[0].double().numpy())


def nearest_neighbours(observed: xr.DataArray, noise: float, seed: int) -> Prediction:
    """Krige from the nearest observations, with an exponential covariance and a linear mean."""
    records = Records.of(observed)
    place, values = coordinates_of(records.layout.domain), records.values[0, 0].numpy()
    seen = np.isfinite(values)
    regressors = np.c_[np.ones(len(place)), place]
    slope = np.linalg.lstsq(regressors[seen], values[seen], rcond=None)[0]
    left, tree = (values - regressors @ slope)[seen], cKDTree(place[seen])
    rng = np.random.default_rng(seed)
    train = rng.choice(seen.sum(), _FIRST, replace=False)
    near = tree.query(place[seen][train], k=_TRAINED + 1)[1][:, 1:]

    def krige(point: Array, asked: Array, index: NDArray[np.int64]) -> tuple[Array, Array]:
        variance, length, white = np.exp(point)
        others = place[seen][index]
        distance = np.linalg.norm(others[:, :, None] - others[:, None], axis=-1)
        matrix = variance * np.exp(-distance / length)
        matrix += (white + noise**2 + _JITTER * variance) * np.eye(index.shape[1])
        cross = variance * np.exp(-np.linalg.norm(others - asked[:, None], axis=-1) / length)
        weight = np.linalg.solve(matrix, cross[..., None])[..., 0]
        return (weight * left[index]).sum(1), variance + white - (weight * cross).sum(1)

    def loss(point: Array) -> float:
        mean, var = krige(point, place[seen][train], near)
        var = var + noise**2
        return float(np.mean(np.log(var) + (left[train] - mean) ** 2 / var))

    tried = [
        minimize(loss, np.log([left.var(), km, 0.1]), method="Nelder-Mead", options={"maxfev": 150})
        for km in (10.0, 50.0, 200.0)  # the likelihood has several maxima
    ]
    found = min(tried, key=lambda each: float(each.fun)).x
    mean, std = values.copy(), np.zeros(len(values))
    for part in np.array_split(np.flatnonzero(~seen), 200):
        index = tree.query(place[part], k=_NEAR)[1]
        each, var = krige(found, place[part], index)
        mean[part], std[part] = each + regressors[part] @ slope, np.sqrt(var)
    return Prediction(mean, std)


def gpboost(observed: xr.DataArray, noise: float, seed: int) -> Prediction:
    """Fit GPBoost's Vecchia approximation, an exponential one with a range by axis."""
    import gpboost as gpb

    records = Records.of(observed)
    place, values = coordinates_of(records.layout.domain), records.values[0, 0].numpy()
    seen = np.isfinite(values)
    regressors = np.c_[np.ones(len(place)), place / place.std(0)]
    model = gpb.GPModel(
        gp_coords=place[seen],
        cov_function="matern_ard",
        cov_fct_shape=0.5,
        gp_approx="vecchia",
        num_neighbors=_LOCAL,
        seed=seed,
        likelihood="gaussian",
    )
    model.fit(y=values[seen], X=regressors[seen])
    found = model.predict(
        gp_coords_pred=place[~seen],
        X_pred=regressors[~seen],
        predict_var=True,
        predict_response=not noise,  # with the white part, or without
    )
    mean, std = values.copy(), np.zeros(len(values))
    mean[~seen], std[~seen] = found["mu"], np.sqrt(found["var"])
    return Prediction(mean, std)


def methods() -> dict[str, Fill]:
    """Return the methods by name; those of packages that are not installed are left out."""
    found: dict[str, Fill] = {
        "random field (ours)": random_field,
        "nearest-neighbour kriging": nearest_neighbours,
    }
    if find_spec("gpboost"):
        found["GPBoost, Vecchia"] = gpboost
    return found
