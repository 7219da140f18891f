"""The data sets of the benchmark of stages: their priors, ways of measuring and flows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import xarray as xr

import apsgeo
from apsgeo.flows.build import CouplingSpec
from apsgeo.flows.flow import Flow
from apsgeo.gaussian.scales import HybridScales, Scales
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from benchmarks.tasks import Task
from benchmarks.trained_priors.cases import CASES as TRAINED
from benchmarks.trained_priors.cases import TrainedCase

__all__ = ["CASES", "StagedCase", "coarse_months"]

_IMAGES = 4000  # fields to learn from, at most
_SHARES = 0.01, 0.05, 0.3  # observed shares of the area that are scored
_SIDE = 16  # nside of the HEALPix fields


@dataclass(frozen=True)
class StagedCase:
    """Fields, the settings of their prior, and those of the flow that every stage trains.

    Attributes:
        trained: Fields to learn from and to test on, and options of the diffusion prior.
        scales, anchor_scales: Scales of the Gaussian priors.
        prior_steps: Number of steps of the diffusion prior.
        spec: Architecture of the flow.
        noise_std: Standard deviation of the noise, in the units of the data.
        steps: Number of steps of each stage.
    """

    trained: TrainedCase
    scales: Scales
    anchor_scales: Scales
    prior_steps: int
    spec: CouplingSpec
    noise_std: float
    steps: int

    @property
    def operator(self) -> Mask:
        """The family of masks that the flow learns."""
        return Mask(min(_SHARES) / 2.0, 0.5)

    @property
    def tasks(self) -> list[Task]:
        """The ways of measuring that are scored."""
        return [
            Task(f"{share:.0%}", self.operator, self.noise_std, share, hidden_only=True)
            for share in _SHARES
        ]

    @property
    def options(self) -> dict[str, Any]:
        """Options of `apsgeo.fit_prior`, but the training."""
        dropped = {"steps", "augment"}
        return {name: value for name, value in self.trained.options.items() if name not in dropped}


def _months(name: str, noise_std: float, steps: int, **changed: Any) -> StagedCase:
    whole = TRAINED[name]()
    options = {**whole.options, "memory": False}  # stages differ by what teaches about one month
    trained = replace(whole, **{"options": options, **changed})
    return StagedCase(
        trained,
        replace(HybridScales.start(trained.domain), eof_weight=trained.eof_weight),
        _monthly_scales(),
        prior_steps=600,
        spec=CouplingSpec(width=16, depth=3),
        noise_std=noise_std,
        steps=steps,
    )


def _monthly_scales() -> Scales:
    """Return the localised scales, in km, that were chosen for the months of ncep-air."""
    model = apsgeo.load("ncep-air")
    assert isinstance(model, Posterior)
    assert isinstance(model.method, Flow)
    assert model.method.anchor is not None
    return model.method.anchor.scales


def _healpix() -> StagedCase:
    whole = TRAINED["z500-healpix"]()
    domain = apsgeo.HEALPixDomain(_SIDE)
    train, test = (_coarse(part, domain) for part in (whole.train, whole.test))
    return _months("z500-healpix", 5.0, 400, domain=domain, train=train, test=test)


def coarse_months() -> StagedCase:
    """Return the months of ncep-air on every second latitude and longitude, 5 degrees apart."""
    whole = TRAINED["ncep-air"]()
    train, test = (
        part.isel(lat=slice(None, None, 2), lon=slice(None, None, 2))
        for part in (whole.train, whole.test)
    )
    domain = apsgeo.LatLonDomain(train["lat"].values, train["lon"].values)
    return _months("ncep-air", 0.25, 300, domain=domain, train=train, test=test)


def _coarse(fields: xr.DataArray, domain: apsgeo.HEALPixDomain) -> xr.DataArray:
    return apsgeo.regrid(fields, domain, method="conservative")


def _samples(name: str, noise_std: float) -> StagedCase:
    trained = TRAINED[name]()
    first = trained.train.dims[0]
    held = trained.options.get("held_out_from", len(trained.train) * 9 // 10)
    every = max(1, len(trained.train) // _IMAGES)
    fewer = trained.train.isel({first: slice(None, None, every)})
    options = {**trained.options, "held_out_from": -(-held // every)}
    trained = replace(trained, train=fewer, options=options)
    scales = replace(HybridScales.start(trained.domain), eof_weight=trained.eof_weight)
    return StagedCase(
        trained,
        scales,
        scales,
        prior_steps=2500,
        spec=CouplingSpec(width=16, depth=3, roughness=3),
        noise_std=noise_std,
        steps=600,
    )


CASES: dict[str, Callable[[], StagedCase]] = {
    "ncep-air": lambda: _months("ncep-air", 0.25, 300),
    "z500-healpix": _healpix,
    "fashion-mnist": lambda: _samples("fashion-mnist", 0.05),
    "etopo-patches": lambda: _samples("etopo-patches", 20.0),
}
"""The data sets by name, opened when called."""
