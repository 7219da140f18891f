"""What a density tells of the members: log q(x | y), and how well q stands for the posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from apsgeo.diagnostics.importance import ImportanceWeights
from apsgeo.errors import InputError
from apsgeo.measurement import Draws
from apsgeo.statistics.statistic import Array, Output, Site, Statistic

__all__ = ["EffectiveSampleSize", "LogDensity"]


@dataclass(frozen=True)
class LogDensity(Statistic):
    """The log density log q(x | y) of each member under the model, in the units of the data."""

    def check(self, site: Site) -> None:
        """Check that there is a density.

        Raises:
            InputError: If some nodes are land, or the variable has a bound.
        """
        _check(site, "log_q")

    def outputs(self, site: Site) -> Sequence[Output]:
        """Return the variable ``log_q`` (member, …)."""
        member = {"member": xr.Variable("member", np.arange(site.members))}
        attrs = {"long_name": "log density of the member"}
        return (Output("log_q", member, False, False, "1", attrs),)

    def start(self, site: Site) -> _Densities:
        """Return the state before the first member."""
        return _Densities()


class _Densities:
    def __init__(self) -> None:
        self._parts: list[Array] = []

    def add(self, fields: Array, draws: Draws) -> None:
        """Take in members; see `Accumulator`."""
        with torch.no_grad():
            self._parts.append(draws.log_prob(torch.from_numpy(fields)).double().numpy())

    def values(self) -> Sequence[Array]:
        """Return log q (record, member)."""
        return (np.concatenate(self._parts).T,)


@dataclass(frozen=True)
class EffectiveSampleSize(Statistic):
    """How many members count when they are weighed by the Gaussian prior's exact posterior.

    The weights are p(x) p(y | x) / q(x | y), with p the prior that the flow starts from; see
    `apsgeo.diagnostics.importance`. Of a posterior of another prior, use `importance_weights`.
    """

    def check(self, site: Site) -> None:
        """Check that there are densities of the members and of the prior.

        Raises:
            InputError: If there are not, or there is one member.
        """
        _check(site, "ess")
        if site.log_prior is None or site.members < 2:
            raise InputError(
                "ess weighs two members or more by the Gaussian prior that a flow starts from, and "
                "this model has none; use apsgeo.diagnostics.importance.importance_weights"
            )

    def outputs(self, site: Site) -> Sequence[Output]:
        """Return the variables ``effective_sample_size`` and ``pareto_k``."""
        size = {"long_name": "effective sample size of the members, weighed by the Gaussian prior"}
        shape = {"long_name": "shape k of the weights' tail; weights are reliable below 0.7"}
        return (
            Output("effective_sample_size", {}, False, False, "1", size),
            Output("pareto_k", {}, False, False, "1", shape),
        )

    def start(self, site: Site) -> _Weights:
        """Return the state before the first member."""
        return _Weights(site)


class _Weights:
    def __init__(self, site: Site) -> None:
        self._site, self._parts = site, list[Array]()

    def add(self, fields: Array, draws: Draws) -> None:
        """Take in members; see `Accumulator`."""
        season = draws.measurement.season_of(self._site.normals.seasons)
        x = torch.from_numpy(fields)
        with torch.no_grad():
            joint = draws.log_joint(x, lambda each: self._site.log_prior(each, season))  # type: ignore[attr-defined]
            self._parts.append((joint - draws.log_prob(x)).double().numpy())

    def values(self) -> Sequence[Array]:
        """Return size and shape (record,)."""
        weights = ImportanceWeights(np.concatenate(self._parts))
        return weights.effective_sample_size, weights.pareto_k


def _check(site: Site, asked: str) -> None:
    if not site.normals.linear or not bool(site.normals.valid.all()):
        raise InputError(
            f"{asked} needs a density, which {site.name} has not: some of its nodes have no values "
            "(land), or it has a bound that values reach; leave it out"
        )
