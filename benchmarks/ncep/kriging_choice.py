"""Compare covariance functions for kriging on held-out months, never on the test months.

python -m benchmarks.ncep.kriging_choice  writes benchmarks/results/kriging_choice.csv
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from apsgeo.baselines.kriging import default_kernel
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

from apsgeo import datasets
from apsgeo.baselines import Kriging
from apsgeo.measurement import Normals
from apsgeo.metrics.scoreboard import Scoreboard
from apsgeo.protocol import DENSITIES, NcepProtocol
from benchmarks.report import RESULTS

EVERY = 6


def candidates() -> dict[str, Any]:
    """Return where the search for each covariance starts."""
    rough = ConstantKernel(0.5) * Matern(0.4, nu=0.5)
    return {
        "exponential + Gaussian": rough + ConstantKernel(0.5) * RBF(0.2),
        "exponential + Matern 3/2": rough + ConstantKernel(0.5) * Matern(0.2, nu=1.5),
        "two Matern 3/2": default_kernel().k1,
        "two Matern 3/2 + constant": default_kernel(),
    }


def annual(normals: Normals) -> Normals:
    """Return normals with one standard deviation for all seasons."""
    std = (normals.std**2).mean(0, keepdim=True).sqrt()
    return replace(normals, std=std.expand_as(normals.std).contiguous())


def main() -> None:
    """Score every candidate, with the seasonal and with the annual standard deviation."""
    protocol = NcepProtocol(datasets.load("ncep-air"))
    season = torch.from_numpy(protocol.season[protocol.fit])
    board = Scoreboard()
    spreads = {"seasonal": protocol.normals, "annual": annual(protocol.normals)}
    for spread, normals in spreads.items():
        for name, kernel in candidates().items():
            method = Kriging.fit(protocol.domain, normals, protocol.history, season, kernel=kernel)
            print(f"{name}, {spread}: {method.kernel}")
            for density in DENSITIES:
                scores = protocol.evaluate(method, protocol.validation[::EVERY], density)
                board.add(f"{name}, {spread} sd", density, scores)
    board.write_csv(RESULTS / "kriging_choice.csv", overwrite=True)
    print(board.to_markdown())


if __name__ == "__main__":
    main()
