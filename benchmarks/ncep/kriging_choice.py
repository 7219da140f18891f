"""Compare covariance functions for kriging on held-out months, never on the test months.

python -m benchmarks kriging-choice    writes benchmarks/results/kriging_choice.csv
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

from apsgeo import datasets
from apsgeo.domains import Domain
from apsgeo.gaussian.kernel import KernelPrior, default_kernel
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Normals
from apsgeo.metrics.scoreboard import Scoreboard
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.protocol import DENSITIES, NcepProtocol

EVERY = 6
OPTIONS: dict[str, Any] = {}


def candidates(domain: Domain) -> dict[str, Any]:
    """Return where the search for each covariance starts."""
    rough = ConstantKernel(0.5) * Matern(0.4, nu=0.5)
    return {
        "exponential + Gaussian": rough + ConstantKernel(0.5) * RBF(0.2),
        "exponential + Matern 3/2": rough + ConstantKernel(0.5) * Matern(0.2, nu=1.5),
        "two Matern 3/2": default_kernel(domain).k1,
        "two Matern 3/2 + constant": default_kernel(domain),
    }


def annual(normals: Normals) -> Normals:
    """Return normals with one standard deviation for all seasons."""
    std = (normals.std**2).mean(0, keepdim=True).sqrt()
    return replace(normals, std=std.expand_as(normals.std).contiguous())


def run(options: argparse.Namespace, made: str) -> None:
    """Score every candidate, with the seasonal and with the annual standard deviation."""
    protocol = NcepProtocol(datasets.load("ncep-air"), seed=options.seed)
    season = torch.from_numpy(protocol.season[protocol.fit])
    prior = protocol.prior(HybridScales())
    board = Scoreboard()
    spreads = {"seasonal": protocol.normals, "annual": annual(protocol.normals)}
    for spread, normals in spreads.items():
        fields = normals.standardize(protocol.history.double(), season)
        for name, kernel in candidates(protocol.domain).items():
            kriging = KernelPrior.fit(protocol.domain, fields, kernel=kernel)
            print(f"{name}, {spread}: {kriging.kernel}")
            method = Posterior.of(
                replace(prior, normals=normals), kriging, Mask(), protocol.noise_std
            )
            for density in DENSITIES:
                scores = protocol.evaluate(method, protocol.validation[::EVERY], density)
                board.add(f"{name}, {spread} sd", density, scores)
    board.write_csv(options.output / "kriging_choice.csv", overwrite=True)
    print(board.to_markdown())
