"""The recipe of the shipped ncep-air, by which the histories of this suite are fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from apsgeo import datasets
from apsgeo.baselines.gaussian import local
from apsgeo.field_prior import FieldPrior
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from apsgeo.protocol import NOISE_STD, NcepProtocol
from benchmarks.ncep.train_demo import HELD_OUT_FROM, RECENT, RECENT_BASELINE, scales
from benchmarks.report import RESULTS

__all__ = ["area_means", "fitted", "history", "posterior_of"]


def history() -> xr.DataArray:
    """Return the months that ncep-air is fitted to."""
    return datasets.load("ncep-air").sel(time=RECENT)


def fitted(months: xr.DataArray, seed: int, **options: Any) -> FieldPrior:
    """Fit a prior by the recipe, with the scales that it has."""
    hybrid, anchor = scales(months, RESULTS / "ncep_scales.json")
    return fit_prior(
        months,
        baseline=RECENT_BASELINE,
        held_out_from=HELD_OUT_FROM,
        scales=hybrid,
        anchor_scales=anchor,
        training=Training(steps=0),
        seed=seed,
        **options,
    )


def posterior_of(prior: FieldPrior) -> Posterior:
    """Return the local Gaussian posterior, the untrained start of the shipped model."""
    return Posterior.of(prior, local(prior), Mask(), NOISE_STD)


def area_means(protocol: NcepProtocol, fields: torch.Tensor) -> NDArray[np.float64]:
    """Return the means (...,) over the area of fields (..., node)."""
    share = torch.from_numpy(protocol.weights / protocol.weights.sum())
    means: NDArray[np.float64] = (fields.double() @ share).numpy()
    return means
