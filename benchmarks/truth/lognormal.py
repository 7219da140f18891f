"""A log-normal field that is observed without noise: its posterior is that of a Gaussian.

The logarithm is a Gaussian field on an image, with a Matern covariance of smoothness 3/2 and the
standard deviation 0.7; 3 to 30 % of the pixels are seen exactly. Methods learn from fields alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import apsgeo
from apsgeo.domains import ImageDomain
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.dense import DensePrior
from apsgeo.measurement import Measurement
from apsgeo.metrics.table import Row
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from benchmarks.truth.scores import calibration, excess_scores

NOISE_STD = 1e-3  # stands for none: covariances of observations must be invertible
DENSITIES = (0.03, 0.3)
TESTED = 0.1
_STD, _RANGE = 0.7, 3.0  # of the logarithm; in pixels
_NUGGET = 0.01  # share of the variance

Draws = Callable[[Tensor, int, int], Tensor]
"""Function that returns members (member, field, 1, node) of observed fields, by a seed."""


class LogNormalProblem:
    """The field and its exact posterior."""

    def __init__(self, side: int = 16) -> None:
        self.domain = ImageDomain(side, side)
        distance = torch.cdist(self.domain.positions, self.domain.positions).double()
        scaled = math.sqrt(3.0) * distance / _RANGE
        smooth = (1.0 + scaled) * torch.exp(-scaled)
        nodes = self.domain.num_nodes
        correlation = (1.0 - _NUGGET) * smooth + _NUGGET * torch.eye(nodes).double()
        self.logarithm = DensePrior(self.domain, _STD**2 * correlation)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw fields (count, 1, node)."""
        return self.logarithm.sample(count, generator).float().exp()

    def observe(self, truth: Tensor, generator: torch.Generator) -> Tensor:
        """Return fields (field, 1, node), NaN where not observed."""
        seen = torch.rand(truth.shape, generator=generator) < TESTED
        seen[~seen.any(-1)[:, 0], :, 0] = True
        return torch.where(seen, truth, torch.nan)

    def exact(self, observed: Tensor, members: int, seed: int) -> Tensor:
        """Draw the exact posterior (member, field, 1, node)."""
        posterior = self.logarithm.posterior(Measurement.of(observed.log(), NOISE_STD))
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(members, len(observed), posterior.noise_dim, generator=generator)
        return (posterior.mean + posterior.deviations(noise)).exp()

    def labelled(self, fields: Tensor) -> xr.DataArray:
        """Return fields as samples of images."""
        side = math.isqrt(self.domain.num_nodes)
        values = fields.numpy().reshape(-1, side, side)
        return xr.DataArray(values, dims=("sample", "y", "x"), name="field")


@dataclass(frozen=True)
class _Method:
    """A way to make a posterior: of the logarithm or not, by which flow, in how many steps."""

    name: str
    spec: CouplingSpec
    steps: int
    of_logarithm: bool = False


def _methods(steps: int) -> tuple[_Method, ...]:
    affine = CouplingSpec(base="anchor", width=24, depth=3, local=4, patterns=32, coupling_width=12)
    spline = replace(affine, elementwise="spline")
    return (
        _Method("Gaussian anchor, untrained", affine, 0),
        _Method("anchored, forward, affine maps", affine, steps),
        _Method("anchored, forward, splines", spline, steps),
        _Method("Gaussian anchor of the logarithm, untrained", affine, 0, of_logarithm=True),
    )


def _trained(
    problem: LogNormalProblem, history: xr.DataArray, method: _Method, seed: int
) -> tuple[Draws, float]:
    """Return the function that draws members, and the seconds of its training."""
    start = time.process_time()
    learned = history
    if method.of_logarithm:
        learned = history.copy(data=np.log(history.values))
    prior = apsgeo.fit_prior(
        learned, training=apsgeo.Training(steps=0, progress=False), rank=60, seed=seed
    )
    posterior: Posterior = apsgeo.distill(
        prior,
        Mask(*DENSITIES),
        NOISE_STD,
        objective="forward",
        spec=method.spec,
        training=apsgeo.Training(steps=method.steps, progress=False),
        rounds=2,
        seed=seed,
    )
    seconds = time.process_time() - start

    def draws(observed: Tensor, members: int, seed: int) -> Tensor:
        y = observed.log() if method.of_logarithm else observed
        found = posterior(y).members(members, seed)
        return found.exp() if method.of_logarithm else found

    return draws, seconds


def lognormal_rows(
    steps: int, *, history: int, fields: int, members: int, seed: int, side: int = 16
) -> list[Row]:
    """Train all methods on as many fields as the history has, and score them on others."""
    problem = LogNormalProblem(side)
    generator = torch.Generator().manual_seed(seed)
    learned = problem.labelled(problem.sample(history, generator))
    truth = problem.sample(fields, generator)
    observed = problem.observe(truth, generator)
    reference = problem.exact(observed, members, seed + 1).double()
    made: list[tuple[str, Draws, float]] = [("exact posterior", problem.exact, 0.0)]
    made += [(m.name, *_trained(problem, learned, m, seed)) for m in _methods(steps)]
    rows: list[Row] = []
    for name, draws, seconds in made:
        start = time.perf_counter()
        found = draws(observed, members, seed + 2).double()
        spent = 1e3 * (time.perf_counter() - start) / fields * 64 / members
        crps, energy = excess_scores(found.flatten(2), reference.flatten(2))
        hidden = int(observed.isnan().sum((0, 1)).argmax())  # the node that is most often hidden
        unseen = observed[:, 0, hidden].isnan()
        true = truth.double()
        at = found[:, unseen, 0, hidden], true[unseen, 0, hidden]
        rows.append(
            {
                "problem": "log-normal field",
                "method": name,
                "crps": crps,
                "energy": energy,
                "impossible": float((found <= 0.0).double().mean()),
                **calibration(*at, found.flatten(2), true.flatten(1)),
                "train_seconds": seconds,
                "sample_ms": spent,
            }
        )
        print(rows[-1], flush=True)
    return rows
