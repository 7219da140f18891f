"""Protocol NCEP: everyone sees the same observations, and scores are what they say."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from apsgeo.baselines.gaussian import climatology
from apsgeo.errors import InputError
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Draws, Measurement
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.protocol import NcepProtocol
from tests.cases import numpy_seeded, rounding


@pytest.fixture(scope="module")
def field() -> xr.DataArray:
    """Monthly, 1955 to 2012, on 7 x 8 nodes with both poles."""
    time = xr.date_range("1955-01-01", "2012-12-01", freq="MS")
    lat, lon = np.linspace(90, -90, 7), np.arange(0, 360, 45.0)
    rng = numpy_seeded(0)
    values = rng.normal(10, 2, (len(time), 7, 8)).astype(np.float32)
    coords = {"time": time, "lat": lat, "lon": lon}
    return xr.DataArray(values, coords=coords, dims=("time", "lat", "lon"), attrs={"units": "degC"})


@pytest.fixture(scope="module")
def protocol(field: xr.DataArray) -> NcepProtocol:
    return NcepProtocol(field)


def test_months_are_split_by_time(protocol: NcepProtocol, field: xr.DataArray) -> None:
    years = [
        field.time.dt.year.values[i] for i in (protocol.fit, protocol.validation, protocol.test)
    ]
    assert [(y.min(), y.max()) for y in years] == [(1955, 2004), (2005, 2009), (2010, 2012)]
    assert sum(map(len, years)) == len(field)


def test_normals_are_those_of_1961_to_2000(protocol: NcepProtocol, field: xr.DataArray) -> None:
    baseline = field.sel(time=slice("1961", "2000")).groupby("time.month").mean("time")
    mean = protocol.climatological_mean(np.array([5]))
    error = rounding(40, field)  # forty years
    np.testing.assert_allclose(mean[0], baseline.sel(month=6), rtol=0.0, atol=error)


def test_observations_of_a_month_never_change(protocol: NcepProtocol, field: xr.DataArray) -> None:
    index = protocol.test
    all_months = protocol.observe(index, 0.3)
    one = protocol.observe(index[4:5], 0.3)
    np.testing.assert_array_equal(one.mask[0], all_months.mask[4])
    np.testing.assert_array_equal(one.values[0], all_months.values[4])
    later = NcepProtocol(field.isel(time=slice(12, None)))
    np.testing.assert_array_equal(later.observe(index[4:5] - 12, 0.3).values, one.values)


def test_months_densities_and_seeds_are_observed_apart(
    protocol: NcepProtocol, field: xr.DataArray
) -> None:
    month = protocol.test[:1]
    first = protocol.observe(month, 0.3).mask
    assert (first != protocol.observe(month + 1, 0.3).mask).any()
    assert (first != protocol.observe(month, 0.31).mask).any()
    assert (first != NcepProtocol(field, seed=1).observe(month, 0.3).mask).any()


def test_cells_are_observed_in_proportion_to_their_area(protocol: NcepProtocol) -> None:
    index = np.arange(len(protocol.values))
    seen = protocol.observe(index, 0.3)
    expected = 0.3 * protocol.weights / protocol.weights.mean()
    error = np.sqrt(expected * (1 - expected) / len(index))
    share = seen.mask[:, 0].double().mean(0).numpy()
    assert (np.abs(share - expected) <= 5.0 * error).all()
    assert not seen.mask[..., :8].any()  # the pole has no area
    noise = (seen.values.numpy()[:, 0] - protocol.values)[seen.mask[:, 0].numpy()]
    assert abs(noise.std() / 0.25 - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * 0.25 / np.sqrt(noise.size)


def test_the_probability_is_at_most_one(protocol: NcepProtocol) -> None:
    assert protocol.probability(1.0).max() == 1.0
    with pytest.raises(InputError, match="density"):
        protocol.probability(5.0)


def test_labelled_observations_are_the_field_with_gaps(protocol: NcepProtocol) -> None:
    index = protocol.test[:3]
    seen = protocol.observe(index, 0.3)
    gappy = protocol.labelled(seen, index)
    assert gappy.attrs == protocol.field.attrs
    assert gappy.dtype == np.float32
    np.testing.assert_array_equal(gappy.notnull().values.reshape(3, -1), seen.mask[:, 0])
    np.testing.assert_array_equal(gappy.values.reshape(3, 1, -1)[seen.mask], seen.values[seen.mask])


class Constant:
    """Predict N(9, 3^2) everywhere."""

    name = "constant"

    def posterior(self, measurement: Measurement) -> Draws:
        return ConstantDraws(measurement)


class ConstantDraws(Draws):
    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement

    @property
    def mean(self) -> Tensor:
        return torch.full(self.measurement.shape, 9.0, dtype=torch.float64)

    @property
    def marginal_std(self) -> Tensor:
        return torch.full(self.measurement.shape, 3.0, dtype=torch.float64)

    def members(self, count: int, seed: int) -> Tensor:
        raise NotImplementedError


def test_scores_are_over_unobserved_cells_by_area(protocol: NcepProtocol) -> None:
    index = protocol.test[:5]
    scores = protocol.evaluate(Constant(), index, 0.3, batch=2, progress=False)
    squares = []
    for i in index:
        mask = protocol.observe(np.array([i]), 0.3).mask[0, 0].numpy()
        weights = protocol.weights * ~mask
        squares.append((weights * (protocol.values[i] - 9.0) ** 2).sum() / weights.sum())
    assert scores.records == 5
    assert scores.rmse == pytest.approx(np.sqrt(np.mean(squares)))
    assert scores.spread_skill == pytest.approx(3 / np.sqrt(np.mean(squares)))


class Oracle:
    """Knows the truth of the first months of the test, and says it twice."""

    name = "oracle"

    def __init__(self, protocol: NcepProtocol) -> None:
        self.truth = dict(zip(protocol.key, protocol.values, strict=True))

    def posterior(self, measurement: Measurement) -> Draws:
        known = np.stack([self.truth[key] for key in measurement.key.tolist()])
        return OracleDraws(measurement, torch.from_numpy(known)[:, None])


class OracleDraws(Draws):
    def __init__(self, measurement: Measurement, truth: Tensor) -> None:
        self.measurement, self.truth = measurement, truth

    @property
    def mean(self) -> Tensor:
        return self.truth

    def members(self, count: int, seed: int) -> Tensor:
        return self.truth.expand(count, *self.truth.shape)


def test_the_truth_scores_zero(protocol: NcepProtocol) -> None:
    with np.errstate(invalid="ignore"):
        scores = protocol.evaluate(Oracle(protocol), protocol.test, 0.05, progress=False)
    assert (scores.crps, scores.rmse, scores.coverage90) == (0.0, 0.0, 1.0)


def test_climatology_of_white_noise_is_calibrated(protocol: NcepProtocol) -> None:
    prior = protocol.prior(HybridScales())
    white_noise = Posterior.of(prior, climatology(prior), Mask(), protocol.noise_std)
    scores = protocol.evaluate(white_noise, protocol.test, 0.3, progress=False)
    # About 1200 independent cells: the error's mean square is known to 4 %, its root to 2 %; the
    # normals of 40 years add 1 % to the error.
    assert abs(scores.spread_skill - 1) < 0.08
    assert abs(scores.coverage90 - 0.9) < 0.03


def test_a_field_with_gaps_or_other_dimensions_is_refused(field: xr.DataArray) -> None:
    with pytest.raises(InputError, match="missing"):
        NcepProtocol(field.where(field.lon > 50))
    with pytest.raises(InputError, match="dimensions"):
        NcepProtocol(field.transpose("lat", "lon", "time"))
