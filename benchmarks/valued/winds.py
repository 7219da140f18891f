"""Directions of monthly winds: members on the circle against kriging and the (u, v) route."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import apsgeo
from apsgeo.datasets import load_dataset
from apsgeo.gaussian.kernel import KernelPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Measurement, Method, Normals, ProjectedNormals
from apsgeo.metrics.geodesic import circular_variance, geodesic_coverage, geodesic_crps
from apsgeo.metrics.table import Row
from apsgeo.values.mean import frechet_mean
from apsgeo.values.sphere import Circle
from apsgeo.values.values import Values

PLAIN = "(u, v) Gaussian, usual speed"
OURS = "directions, projected"
HELD_OUT, TEST = "1989", "1990"
NOISE = 0.2
SEEN = 0.05
_TWO = 0.4  # length of the mean vector of twice the angle from which there are two modes
_SHARES = (0.5, 0.6, 0.7, 0.8)  # of half of the members in the greater mode
CIRCLE = Circle()

Members = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function of observed directions (1, 2, node), season and key that returns members."""


@dataclass(frozen=True)
class Case:
    """One month that is filled.

    Attributes:
        truth: Directions (node, 2).
        seen: Observed directions (1, 2, node), NaN elsewhere.
        season: Month (1,).
        key: Number (1,) of the record.
        hidden: Mask (node,) of what is scored.
        weights: Weight (node,) of each node, its area.
        label: Date of the month.
    """

    truth: Tensor
    seen: Tensor
    season: Tensor
    key: Tensor
    hidden: Tensor
    weights: Tensor
    label: str


def history() -> xr.Dataset:
    """Return the winds, the monthly u and v at the surface."""
    return load_dataset("navy-winds")[["uwnd", "vwnd"]].load()


def cases(winds: xr.Dataset, prior: apsgeo.FieldPrior, every: int, seed: int) -> list[Case]:
    """Measure every so-and-so-manieth month from 1990 on.

    A cell is seen with a chance proportional to its area, so that one in twenty is on average.
    """
    test = winds.sel(time=slice(TEST, None)).isel(time=slice(seed % every, None, every))
    points = prior.records(test).values.float()
    generator = torch.Generator().manual_seed(seed)
    areas = prior.domain.areas.float()
    chance = (SEEN * areas / areas.mean()).clamp(max=1.0)
    found = []
    for number, field in enumerate(points):
        truth = CIRCLE.project(field.T)
        angle = NOISE * torch.randn(len(truth), generator=generator)
        ahead = CIRCLE.frame(truth)[..., 0]
        noisy = CIRCLE.exp(truth, angle[:, None] * ahead)
        mask = torch.rand(len(truth), generator=generator) < chance
        month = int(test.time.dt.month[number]) - 1
        found.append(
            Case(
                truth=truth,
                seen=torch.where(mask, noisy.T, torch.nan)[None],
                season=torch.tensor([month]),
                key=torch.tensor([number]),
                hidden=~mask & ~truth.isnan().any(-1),
                weights=areas,
                label=str(test.time.values[number])[:7],
            )
        )
    return found


def by_posterior(posterior: apsgeo.Posterior, count: int, seed: int) -> Members:
    """Return members of a posterior of directions."""

    def draw(seen: Tensor, season: Tensor, key: Tensor) -> Tensor:
        drawn = posterior(seen, season=season, key=key).members(count, seed)
        return drawn[:, 0].mT

    return draw


def by_kriging(prior: apsgeo.FieldPrior, count: int, seed: int) -> Members:
    """Return directions of cos and sin, each kriged alone by a covariance of distance.

    The members are independent draws of the marginals, of which the scores are made.
    """
    assert prior.history is not None
    normals, learned = prior.normals, prior.encode(prior.split(prior.history)[0])
    kernels = [KernelPrior.fit(prior.domain, learned[:, k : k + 1]) for k in range(2)]

    def draw(seen: Tensor, season: Tensor, key: Tensor) -> Tensor:
        given = Measurement(
            seen.nan_to_num(), ~seen.isnan(), torch.tensor(NOISE), season=season, key=key
        )
        own = normals.measure(given)
        each = []
        for k, kernel in enumerate(kernels):
            one = slice(k, k + 1)
            values, mask, noise = own.values[:, one], own.mask[:, one], own.noise_std[:, one]
            each.append(kernel.posterior(Measurement(values, mask, noise, season=season, key=key)))
        mean = torch.cat([draws.mean for draws in each], 1)
        std = torch.cat([_known(draws.marginal_std) for draws in each], 1)
        generator = torch.Generator().manual_seed(seed + int(key))
        members = mean + std * torch.randn(count, *mean.shape, generator=generator)
        return normals.restore(members, season)[:, 0].mT

    return draw


def _known(std: Tensor | None) -> Tensor:
    assert std is not None
    return std


def by_components(
    prior: apsgeo.FieldPrior, method: Method, speed: Tensor, count: int, seed: int
) -> Members:
    """Return directions of members of (u, v), given directions times the usual speed.

    Args:
        prior: Prior of u and v in m/s.
        method: Method on their standardized anomalies.
        speed: Mean speed (season, node), by which an observed direction becomes u and v.
        count: Number of members.
        seed: Seed of the members.
    """
    posterior = apsgeo.Posterior.of(prior, method, apsgeo.Mask(), noise_std=1.0)

    def draw(seen: Tensor, season: Tensor, key: Tensor) -> Tensor:
        size = speed[season][:, None]
        given = posterior(
            seen * size, season=season, key=key, noise_std=NOISE * size.expand_as(seen)
        )
        return CIRCLE.project(given.members(count, seed)[:, 0].mT)

    return draw


@dataclass(frozen=True)
class Drawn:
    """The members of a month.

    Attributes:
        case: The month.
        members: Members (member, node, 2) at all nodes.
        seconds: Time that they took.
    """

    case: Case
    members: Tensor
    seconds: float

    @property
    def hidden(self) -> tuple[Tensor, Tensor]:
        """Members (member, n, 2) and truth (n, 2) where nothing was seen."""
        where = self.case.hidden
        return self.members[:, where].double(), self.case.truth[where].double()


def drawn_by(draw: Members, some: list[Case]) -> list[Drawn]:
    """Draw the members of all months."""
    found = []
    for case in some:
        start = time.perf_counter()
        members = draw(case.seen, case.season, case.key)
        found.append(Drawn(case, members, time.perf_counter() - start))
    return found


def score(name: str, some: list[Drawn]) -> Row:
    """Return the scores of members over the hidden cells of all months, by area, in radians."""
    crps, error, covered, variance = [], [], [], []
    for each in some:
        case, (members, truth) = each.case, each.hidden
        centre = frechet_mean(CIRCLE, members)
        w = (case.weights[case.hidden] / case.weights.sum()).double()
        crps.append((w * geodesic_crps(members, truth, CIRCLE.distance)).sum() / w.sum())
        error.append((w * CIRCLE.distance(centre, truth).square()).sum() / w.sum())
        covered.append(geodesic_coverage(members, centre, truth, CIRCLE.distance, weights=w))
        variance.append((w * circular_variance(members)).sum() / w.sum())
    scores = {"crps": crps, "mse": error, "coverage": covered, "variance": variance}
    mean = {key: float(torch.stack(values).mean()) for key, values in scores.items()}
    return {
        "part": "winds",
        "method": name,
        "crps": mean["crps"],
        "rmse": math.sqrt(mean["mse"]),
        "coverage": mean["coverage"],
        "variance": mean["variance"],
        "seconds": statistics.median(each.seconds for each in some),
        "records": len(some),
    }


def modes(some: list[Drawn]) -> list[Row]:
    """Return how often the truth is of the mode that members say it is of, where there are two.

    Half of the members tell where there are two opposite modes (twice the angle has a longer mean
    vector than the angle, and one of 0.4 or more), where they are, and which is the greater.
    The share of the other half that is of that mode is to be the share of truths.
    """
    counted: dict[int, list[Tensor]] = {}
    for each in some:
        members, truth = each.hidden
        first, second = members[::2], members[1::2]
        double = torch.stack([first[..., 0] ** 2 - first[..., 1] ** 2, 2 * first.prod(-1)], -1)
        twice = double.mean(0)
        apart = (twice.norm(dim=-1) > first.mean(0).norm(dim=-1)) & (twice.norm(dim=-1) > _TWO)
        half = 0.5 * torch.atan2(twice[:, 1], twice[:, 0])
        axis = torch.stack([half.cos(), half.sin()], -1)
        share = ((first * axis).sum(-1) > 0).double().mean(0)
        axis = torch.where((share < 0.5)[:, None], -axis, axis)
        share = torch.maximum(share, 1.0 - share)
        says = ((second * axis).sum(-1) > 0).double().mean(0)
        is_so = ((truth * axis).sum(-1) > 0).double()
        for number, low in enumerate(_SHARES):
            high = _SHARES[number + 1] if number + 1 < len(_SHARES) else 2.0
            here = apart & (share >= low) & (share < high)
            counted.setdefault(number, []).append(torch.stack([says[here], is_so[here]]))
    rows: list[Row] = []
    for number, parts in counted.items():
        found = torch.cat(parts, 1)
        rows.append(
            {
                "part": "modes",
                "share": f"from {_SHARES[number]:.0%}",
                "members": float(found[0].mean()),
                "truth": float(found[1].mean()),
                "cells": found.shape[1],
                "records": len(some),
            }
        )
    return rows


def usual_speed(winds: xr.Dataset) -> Tensor:
    """Return the mean speed (month, node) of the months that were learned from."""
    learned = winds.sel(time=slice(None, str(int(HELD_OUT) - 1)))
    speed = np.hypot(learned.uwnd, learned.vwnd).groupby("time.month").mean("time")
    return torch.from_numpy(speed.values.reshape(12, -1)).float()


def methods(
    winds: xr.Dataset, count: int, seed: int
) -> tuple[apsgeo.FieldPrior, dict[str, Members]]:
    """Fit the priors, and return that of directions and the methods by their names."""
    learned = winds.sel(time=slice(None, str(int(TEST) - 1)))
    fixed: dict[str, Any] = {
        "anchor_scales": apsgeo.LocalisedScales(eof_weight=0.8),
        "scales": apsgeo.HybridScales(),
        "steps": 0,
        "held_out_from": HELD_OUT,
        "progress": False,
        "memory": False,
        "seed": seed,
    }
    prior = apsgeo.fit_prior(learned, manifold="circle", **fixed)
    alone = apsgeo.fit_prior(learned, manifold=Values(CIRCLE, "embedded"), **fixed)
    plain = apsgeo.fit_prior(learned, **fixed)
    wide = replace(plain, normals=as_numbers(prior.normals), anchor=prior.anchor)

    def posterior(of: apsgeo.FieldPrior) -> Members:
        method = VecchiaPrior(of.anchor)
        found = apsgeo.Posterior.of(of, method, apsgeo.Mask(), noise_std=NOISE)
        return by_posterior(found, count, seed)

    def components(of: apsgeo.FieldPrior) -> Members:
        return by_components(of, VecchiaPrior(of.anchor), usual_speed(winds), count, seed)

    return prior, {
        "circular kriging of (cos, sin)": by_kriging(alone, count, seed),
        PLAIN: components(plain),
        "(u, v) Gaussian, usual speed, our normals": components(wide),
        "directions alone, embedded": posterior(alone),
        OURS: posterior(prior),
    }


def as_numbers(normals: Normals) -> Normals:
    """Return the normals of vectors behind those of their directions, with the same spread."""
    assert isinstance(normals, ProjectedNormals)
    return Normals(normals.mean, normals.spread * normals.std, normals.valid)
