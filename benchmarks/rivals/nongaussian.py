"""Every rival on fields that are far from Gaussian: the Earth's relief, and rain with its zeros.

python -m benchmarks nongaussian     writes benchmarks/results/rivals/{relief,rain}.* and figures
python -m benchmarks nongaussian --data rain
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from apsgeo.baselines.gaussian import local
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.domains import ImageDomain
from apsgeo.flows.build import CouplingSpec, GeneratorSpec
from apsgeo.labels.records import Records
from apsgeo.measurement import Draws, Measurement, Method
from apsgeo.operators import Mask
from benchmarks.history.rain import NOISE, split
from benchmarks.options import Option
from benchmarks.rivals.fields import (
    APS,
    START,
    Fields,
    FieldSuite,
    Gaussian,
    options_of,
    run_suite,
)
from benchmarks.tasks import Task
from benchmarks.trained_priors.cases import CASES, FINE, SIDE
from benchmarks.views import picture

_PATCHES = 2000  # that the prior is fitted to, from the sectors that come first
_PATCH_EVERY, _DAY_EVERY, _CELL_EVERY = 24, 6, 3
_MASKS = Mask(0.02, 0.5)
_SHARES = {"few": 0.05, "many": 0.3}
_MEAN_MEMBERS = 32


def patches(seed: int) -> Fields:
    """Open patches of the relief, which are the same for all seeds."""
    case = CASES["etopo-patches"]()
    fitted, learned = case.train[:_PATCHES], case.train[_PATCHES:]
    view = picture(case.domain)
    return Fields(case.domain, view, fitted, learned, case.test[::_PATCH_EVERY])


def days(seed: int) -> Fields:
    """Open days of rain, which are the same for all seeds."""
    history, later = split(_CELL_EVERY)
    domain = Records.of(history).layout.domain
    view = np.arange(domain.num_nodes).reshape(history.shape[1:])
    later = later.rename(time="sample").drop_vars("sample")
    return Fields(domain, view, history, history, later[::_DAY_EVERY])


@dataclass(frozen=True)
class Rooted:
    """A method of rain by a posterior of its square root."""

    posterior_of_root: Method
    name: str = "square root"

    def posterior(self, measurement: Measurement) -> Draws:
        """Return draws; the error of a root is that of rain by the slope, or of one at zero."""
        rain, least = measurement.values.clamp(min=0.0), measurement.noise_std
        noise_std = least / (2.0 * torch.maximum(rain, least).sqrt())
        root = replace(measurement, values=rain.sqrt(), noise_std=noise_std)
        return _RootedDraws(measurement, self.posterior_of_root.posterior(root))


class _RootedDraws(Draws):
    def __init__(self, measurement: Measurement, root: Draws) -> None:
        self.measurement, self._root = measurement, root

    @property
    def mean(self) -> Tensor:
        return self.members(_MEAN_MEMBERS, 0).mean(0)

    def members(self, count: int, seed: int) -> Tensor:
        return self._root.members(count, seed).clamp(min=0.0).square()


def _root(rain: xr.DataArray) -> xr.DataArray:
    return (rain**0.5).assign_attrs(units="sqrt(mm/day)")


def _tasks(noise_std: float) -> dict[str, Task]:
    return {
        name: Task(f"{share:.0%} of cells", _MASKS, noise_std, share, hidden_only=True)
        for name, share in _SHARES.items()
    }


def _networks(spec: CouplingSpec, **more: Any) -> dict[str, dict[str, Any]]:
    flow = {"spec": spec, **more}
    return {
        "U-Net mean and spread": {"spec": replace(spec, base="independent"), **more},
        "generator by CRPS": {"spec": GeneratorSpec(width=24, depth=3), "score_scales": 5, **more},
        START: flow,
        APS: flow,
    }


SUITES = {
    "relief": FieldSuite(
        title="Every rival on the Earth's relief",
        about=(
            "Patches of 32 × 32 cells of etopo5 at 10 arc minutes, in m, tried on other sectors "
            "of longitude than those learned from; hidden cells are scored. The prior is fitted "
            f"to {_PATCHES} patches, with scales chosen by held-out ones; one flow, and each "
            "learned rival, learns all masks from the other patches."
        ),
        fields=patches,
        tasks=_tasks(20.0),
        prior={
            "rank": 300,
            "spec": DenoiserSpec("tiny", FINE, levels=24),
            "augment": ImageDomain(SIDE, SIDE).symmetries.only("left-right", "up-down"),
            "bounds": None,
            "quality_control": "off",
        },
        networks=_networks(CouplingSpec(width=24, depth=3, roughness=3)),
        colours="terrain",
    ),
    "rain": FieldSuite(
        title="Every rival on rain",
        about=(
            "Daily precipitation of 1990 over eastern Canada (nrcan), in mm, every third cell "
            "each way; days are held out in blocks, and hidden land cells are scored. Methods are "
            "of the latent field of a prior that knows the bound and how much is dry, but the rows "
            "of untransformed rain and of its square root; all scales are chosen by held-out days. "
            "Flows and learned rivals have the days that the prior is fitted to, cross-fitted."
        ),
        fields=days,
        tasks=_tasks(NOISE),
        prior={"rank": 200, "bounds": (0.0, None)},
        networks=_networks(CouplingSpec(width=16, depth=3), rounds=4),
        gaussians={
            "untransformed Gaussian": Gaussian({"bounds": None}, local),
            "Gaussian of the root": Gaussian({"bounds": None}, local, _root, Rooted),
        },
        colours="Blues",
    ),
}
OPTIONS: dict[str, Any] = {
    **options_of(SUITES["relief"]),
    "data": Option(tuple(SUITES), "data sets", tuple(SUITES)),
}


def run(options: argparse.Namespace, made: str) -> None:
    """Run the contests."""
    for name in options.data:
        run_suite(name, SUITES[name], options, made)
