"""Protocol NCEP: the same trial of every gap-filling method on a monthly field.

Anomalies are departures from the monthly climatology of 1961-2000. Months before 2005 are for
fitting, 2005-2009 for choosing, 2010 on for testing. A cell is observed with probability
proportional to cos(latitude); observations carry noise of 0.25 K. Masks and noise follow from
(seed, month, density) alone, so that every method sees the same. Scores are averaged over
unobserved cells, weighted by cos(latitude), and then over months.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.baselines import METHODS, SAMPLERS
from apsgeo.baselines.gaussian import choose_rank
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.fit import fit_gaussian, select_scales
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.scales import Scales, from_config
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.labels.records import Records
from apsgeo.measurement import Measurement, Method, Normals
from apsgeo.metrics.scoreboard import Scores, Tally
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.progress import Bar

__all__ = ["DENSITIES", "NOISE_STD", "NcepProtocol", "compared_methods"]

S = TypeVar("S", bound=Scales)
Array = NDArray[np.float64]
Index = NDArray[np.int64]

BASELINE_YEARS = (1961, 2000)
VALIDATION_FROM = 2005
TEST_FROM = 2010
NOISE_STD = 0.25
"""Standard deviation of the observations' noise, in K."""
DENSITIES = (0.01, 0.05, 0.30)
"""Observed fractions of the area."""
_ROWS = {"local Gaussian": "local Gaussian (base of APS)"}
_OF_ANCHOR = ("localised Gaussian", "local Gaussian")  # made of the model's anchor, in its normals
EOF_RANKS = (100, 200, 300, 400, 500, 600)


class NcepProtocol:
    """The protocol on one complete monthly field.

    Args:
        field: Field (time, lat, lon) without gaps, months from before 1961 to after 2010.
        seed: Seed of masks and noise.
        noise_std: Standard deviation of the noise, in the units of the field.

    Raises:
        InputError: If dimensions are others, or values are missing.
    """

    def __init__(self, field: xr.DataArray, *, seed: int = 0, noise_std: float = NOISE_STD) -> None:
        if field.dims != ("time", "lat", "lon"):
            raise InputError(f"dimensions {field.dims} given; expected ('time', 'lat', 'lon')")
        self.field, self.seed, self.noise_std = field, seed, noise_std
        self.domain = LatLonDomain(field["lat"].values, field["lon"].values)
        self.values = field.values.reshape(len(field), -1)
        if not np.isfinite(self.values).all():
            raise InputError("the field has missing or infinite values: it is the truth, give all")
        self.year: Index = field["time"].dt.year.values.astype(np.int64)
        self.season: Index = field["time"].dt.month.values.astype(np.int64) - 1
        self.key: Index = field["time"].values.astype("datetime64[ns]").astype(np.int64)
        cosine = np.clip(np.cos(np.deg2rad(field["lat"].values.astype(np.float64))), 0.0, None)
        self.weights: Array = np.repeat(cosine, field.sizes["lon"])
        self.normals = self._normals()

    def _normals(self) -> Normals:
        fit = self.fit
        first, last = BASELINE_YEARS
        baseline = (self.year[fit] >= first) & (self.year[fit] <= last)
        return Normals.fit(
            self.history, torch.from_numpy(self.season[fit]), 12, torch.from_numpy(baseline)
        )

    @property
    def fit(self) -> Index:
        """Indices of the months for fitting."""
        return np.flatnonzero(self.year < VALIDATION_FROM)

    @property
    def validation(self) -> Index:
        """Indices of the months for choosing."""
        return np.flatnonzero((self.year >= VALIDATION_FROM) & (self.year < TEST_FROM))

    @property
    def test(self) -> Index:
        """Indices of the months for testing."""
        return np.flatnonzero(self.year >= TEST_FROM)

    @property
    def history(self) -> Tensor:
        """The months for fitting (time, 1, node)."""
        return torch.from_numpy(self.values[self.fit])[:, None]

    def probability(self, density: float) -> Array:
        """Return the probability (N,) that a cell is observed: density cos(lat) / mean cos(lat)."""
        if not 0 < density <= 1:
            raise InputError(f"density={density!r} given; expected a fraction above 0, at most 1")
        return np.minimum(density * self.weights / self.weights.mean(), 1.0)

    def observe(self, index: Index, density: float, window: int = 0) -> Measurement:
        """Simulate the observations of the months ``index``; those of a month never change.

        With a window, as many months on either side are around them, observed alike.
        """
        if window:
            near = np.arange(-window, window + 1)
            every = np.unique((index[:, None] + near).clip(0, len(self.values) - 1))
            return self.observe(every, density).among(
                torch.from_numpy(np.searchsorted(every, index))
            )
        probability = self.probability(density)
        masks, values = [], []
        for i in index:
            seed = [self.seed, int(self.key[i]) % 2**64, round(density * 1e6)]
            rng = np.random.default_rng(seed)
            masks.append(rng.random(len(probability)) < probability)
            noise = self.noise_std * rng.standard_normal(len(probability))
            # In the field's own precision, so that a file of the observations holds the same.
            values.append((self.values[i] + noise).astype(self.values.dtype))
        return self.measured(index, np.array(values), np.array(masks))

    def measured(self, index: Index, values: NDArray[Any], mask: NDArray[np.bool_]) -> Measurement:
        """Return values (T, N) of the months ``index`` under a mask (T, N) as a measurement."""
        return Measurement(
            torch.from_numpy(values[:, None]).double(),
            torch.from_numpy(mask[:, None]),
            torch.tensor(self.noise_std, dtype=torch.float64),
            season=torch.from_numpy(self.season[index]),
            instant=torch.from_numpy(self.key[index] / 1000.0),
            key=torch.from_numpy(self.key[index]),
            time=torch.from_numpy(12.0 * self.year[index] + self.season[index]),
        )

    def labelled(self, observations: Measurement, index: Index) -> xr.DataArray:
        """Return observations as the field's own months ``index``, NaN where not observed."""
        template = self.field.isel(time=index)
        filled = np.where(observations.mask, observations.values, np.nan)
        return template.copy(data=filled.reshape(template.shape).astype(self.values.dtype))

    def truth(self, index: Index) -> Array:
        """Return the field (T, N) itself."""
        return self.values[index].astype(np.float64)

    def climatological_mean(self, index: Index) -> xr.DataArray:
        """Return the normals (time, lat, lon) of the months ``index``, for anomalies."""
        template = self.field.isel(time=index)
        mean = self.normals.mean[torch.from_numpy(self.season[index]), 0].numpy()
        return template.copy(data=mean.reshape(template.shape))

    def score_weights(self, observations: Measurement) -> Array:
        """Return the weights (T, N) of the scores: cos(latitude), zero where observed."""
        return np.where(observations.mask[:, 0], 0.0, self.weights)

    def evaluate(
        self,
        method: Method,
        index: Index,
        density: float,
        *,
        members: int = 32,
        name: str | None = None,
        batch: int = 8,
        window: int = 0,
        progress: bool = True,
    ) -> Scores:
        """Score a method on the months ``index`` at one density, ``batch`` months at a time.

        With a window it is given as many months on either side, too, observed alike.

        Methods without exact marginals are scored by their members, seeded by the protocol's seed.
        """
        tally = Tally()
        label = f"{name or method.name}, {100 * density:g} %"
        with Bar(total=len(index), name=label, unit="field", enabled=progress) as bar:
            for start in range(0, len(index), batch):
                part = index[start : start + batch]
                observations = self.observe(part, density, window)
                begun = time.perf_counter()
                prediction = method.posterior(observations).prediction(members, self.seed)
                seconds = time.perf_counter() - begun
                weights = self.score_weights(observations)
                tally.add(prediction, self.truth(part), weights, seconds)
                bar.update(len(part))
        return tally.scores()

    def eof_interpolation(
        self, ranks: Sequence[int] = EOF_RANKS, progress: bool = True
    ) -> LowRankPrior:
        """Fit EOFs, and choose their number on every sixth validation month at all densities."""
        months = self.validation[::6]
        truth, season = self._standardized(months)
        cases = []
        for density in DENSITIES:
            seen = self.observe(months, density)
            std = self.normals.std[season, 0].double().numpy()
            weights = self.score_weights(seen)
            cases.append((self.normals.measure(seen), truth[:, 0].numpy(), std, weights))
        return choose_rank(self.domain, self._standardized(self.fit)[0], cases, ranks, progress)

    def prior(
        self,
        scales: Scales,
        *,
        anchor: SeasonalPrior | None = None,
        diffusion: DiffusionPrior | None = None,
    ) -> FieldPrior:
        """Fit the hybrid Gaussian prior to the months for fitting.

        Args:
            scales: Scales of its covariance.
            anchor: Anchor of the prior; the hybrid itself by default.
            diffusion: Diffusion prior, if there is one.
        """
        fields, season = self._standardized(self.fit)
        field = scales.field(self.domain, fields)
        hybrid = fit_gaussian(field, fields, scales, season=season, seasons=12)
        return FieldPrior(
            domain=self.domain,
            normals=self.normals,
            gaussian=hybrid,
            anchor=hybrid if anchor is None else anchor,
            diffusion=diffusion,
            units=self.field.attrs.get("units"),
            variable=None if self.field.name is None else str(self.field.name),
            history=Records.of(self.field.isel(time=self.fit), self.domain),
        )

    def select_scales(self, start: S) -> S:
        """Choose the scales of a Gaussian prior by its scores on the months for choosing."""
        fields, season = self._standardized(np.concatenate([self.fit, self.validation]))
        held_out = torch.arange(len(fields)) >= len(self.fit)
        return select_scales(
            self.domain,
            fields,
            start,
            season=season,
            seasons=12,
            held_out=held_out,
            max_evaluations=60,
            seed=self.seed,
        )

    def _standardized(self, index: Index) -> tuple[Tensor, Tensor]:
        """Return standardized months (time, 1, node), and their seasons."""
        season = torch.from_numpy(self.season[index])
        values = torch.from_numpy(self.values[index])[:, None]
        return self.normals.standardize(values.double(), season), season


def compared_methods(
    protocol: NcepProtocol,
    anchored: Posterior,
    paper: Posterior,
    diffusion: DiffusionPrior | None = None,
    *,
    eof_ranks: Sequence[int] = EOF_RANKS,
    progress: bool = True,
) -> dict[str, Method]:
    """Fit the baselines and name all methods of the table, the best expected last.

    Args:
        protocol: Protocol whose months for fitting the baselines are fitted to.
        anchored: Posterior that starts from a Gaussian anchor; its base, untrained, is a row.
        paper: Posterior in the paper's form.
        diffusion: Diffusion prior of the iterative samplers; without one they are left out.
        eof_ranks: Numbers of EOFs to choose from.
        progress: Whether to show bars.

    Raises:
        InputError: If ``anchored`` has no Gaussian anchor.
    """
    anchor = anchored.flow.anchor
    if anchor is None:
        raise InputError(f"{anchored!r} has no Gaussian anchor to compare it with")
    scales = from_config(anchored.provenance["prior"]["scales"])
    prior = protocol.prior(scales, anchor=anchor, diffusion=diffusion)
    made = {
        name: make(prior)
        for name, make in METHODS.items()
        if diffusion is not None or name not in SAMPLERS
    }
    made["EOF interpolation"] = protocol.eof_interpolation(eof_ranks, progress)
    noise = protocol.noise_std
    methods: dict[str, Method] = {}
    for name, method in made.items():
        own = Posterior.of(prior, method, Mask(), noise)
        row = replace(anchored, method=method) if name in _OF_ANCHOR else own
        methods[_ROWS.get(name, name)] = row
    return methods | {"APS, paper's form": paper, "APS, anchored": anchored}
