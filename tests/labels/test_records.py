"""What users hand in is read once, and its dates may be of any calendar."""

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.distillation.distill import distill
from apsgeo.errors import GridError, InputError, UnitsError
from apsgeo.evaluation import score_ensemble
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.labels.layout import Layout
from apsgeo.labels.records import Records
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior, fit_prior
from apsgeo.xarray import impute
from tests.cases import numpy_seeded

SPEC = CouplingSpec(width=8, depth=1, context=4, local=2, patterns=4, coupling_width=4)
SCALES = HybridScales(range_km=4000.0)
MONTHS = 60


def history(calendar: str | None = None) -> xr.DataArray:
    """Smooth fields with a season on a small grid, dated by datetime64 or cftime."""
    options: dict[str, Any] = {} if calendar is None else {"calendar": calendar}
    time = xr.date_range("2000-01-01", periods=MONTHS, freq="MS", **options)
    lat, lon = np.array([-60.0, -20.0, 20.0, 60.0]), np.arange(0, 360, 60.0)
    rng = numpy_seeded(0)
    wave = np.cos(np.deg2rad(lon)) * np.cos(np.deg2rad(lat))[:, None]
    values = rng.standard_normal((MONTHS, 1, 1)) * wave
    values = values + 0.3 * rng.standard_normal(values.shape)
    values += np.cos(np.arange(MONTHS) * np.pi / 6)[:, None, None]
    coords = {"time": time, "lat": lat, "lon": lon}
    attrs = {"units": "K"}
    return xr.DataArray(values.astype("f4"), coords, ("time", "lat", "lon"), "air", attrs)


def fit(fields: xr.DataArray, steps: int = 0, **options: Any) -> FieldPrior:
    settings: dict[str, Any] = {"scales": SCALES, "anchor_scales": SCALES, "rank": 4, "folds": 2}
    return fit_prior(fields, training=Training(steps=steps, progress=False), **(settings | options))


def distilled(prior: FieldPrior, **options: Any) -> Posterior:
    training = Training(steps=0, progress=False)
    settings: dict[str, Any] = {"spec": SPEC, "rounds": 1, "folds": 2, "training": training}
    return distill(prior, Mask(), 0.1, **(settings | options))


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what was laid out as nodes, in order."""
    shapes: list[tuple[int, ...]] = []
    plain = Layout.channel_nodes

    def spy(layout: Layout, values: NDArray[Any]) -> NDArray[Any]:
        shapes.append(values.shape)
        return plain(layout, values)

    monkeypatch.setattr(Layout, "channel_nodes", spy)
    return shapes


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What diffusion priors were to be trained on and validated by; they are not trained."""
    given: list[tuple[Tensor, Tensor]] = []

    def spy(prior: Any, fields: Tensor, validation: Tensor, *_: Any, **__: Any) -> list[Any]:
        given.append((fields, validation))
        return []

    monkeypatch.setattr("apsgeo.prior.train_diffusion", spy)
    return given


@pytest.mark.parametrize("chunks", [None, 7])
def test_a_history_is_laid_out_once(
    laid_out: list[tuple[int, ...]], trained: list[tuple[Tensor, Tensor]], chunks: int | None
) -> None:
    """For the normals, the anchors, the diffusion prior, and the flow that is distilled."""
    read: list[int] = []

    def reading(block: NDArray[Any]) -> NDArray[Any]:
        read.append(len(block))
        return block

    fields = history().transpose("lat", "time", "lon")
    if chunks:
        fields = history().chunk(time=chunks)
        lazy = fields.data.map_blocks(reading, meta=np.empty((0, 0, 0), np.float32))
        fields = fields.copy(data=lazy)
    prior = fit(fields, steps=2)
    assert len(trained) == 1
    assert laid_out == [(MONTHS, 4, 6)]
    assert sum(read) == (MONTHS if chunks else 0)
    prior.diffusion = None
    distilled(prior)
    assert laid_out == [(MONTHS, 4, 6)]


@pytest.mark.same_bits
@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
@pytest.mark.parametrize("start", [None, "2004-03-01"])
def test_a_history_may_be_of_any_calendar(
    trained: list[tuple[Tensor, Tensor]], calendar: str, start: str | None
) -> None:
    """Months are months: all is as with datetime64, to the bit."""
    options: dict[str, Any] = {"baseline": ("2000", "2003-06"), "steps": 2, "held_out_from": start}
    plain, other = (fit(fields, **options) for fields in (history(), history(calendar)))
    assert str(other.held_out_from)[:10] == str(plain.held_out_from)[:10]
    assert other.normals.seasons == 12
    for name in ("mean", "std"):
        assert torch.equal(getattr(other.normals, name), getattr(plain.normals, name))
    (fields, validation), (same_fields, same_validation) = trained
    assert torch.equal(fields, same_fields)
    assert torch.equal(validation, same_validation)
    assert len(validation) == (10 if start else 6)


def test_dates_of_another_calendar_go_all_the_way(tmp_path: Any) -> None:
    given = history("noleap")
    prior = FieldPrior.load(fit(given).save(tmp_path / "prior"))
    posterior = distilled(prior, history=given)
    obs = given[-3:].where(numpy_seeded(1).random((3, 4, 6)) < 0.5)
    ensemble = impute(obs, posterior, members=4)
    assert ensemble.time.equals(obs.time)
    scores = score_ensemble(ensemble, given, obs, progress=False)
    assert scores.records == 3
    # what a prior of numpy's dates holds out is a string of nanoseconds
    plain = fit(history())
    for own, same in zip(plain.split(given), plain.split(history()), strict=True):
        assert torch.equal(plain.encode(own), plain.encode(same))


@pytest.mark.usefixtures("trained")
def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(history(), steps=1)
    assert torch.equal(torch.rand(3), expected)


def test_some_records_are_those_of_the_whole() -> None:
    records = Records.of(history().transpose("lon", "time", "lat"))
    values = records.values
    assert (values.shape, values.dtype) == ((MONTHS, 1, 24), torch.float64)
    for index in (slice(3, 9), np.arange(MONTHS) % 2 == 0, np.array([5, 2])):
        for whole in (records, Records.of(history())):
            some = whole[index]
            assert len(some) == len(some.values)
            np.testing.assert_array_equal(some.values, values[index])
            np.testing.assert_array_equal(some.dates.values, history().time[index])
            np.testing.assert_array_equal(some.array.time, history().time[index])
    one = Records.of(history()[4])
    assert (one.dim, len(one), one.dates.key[0]) == (None, 1, records.dates.key[4])
    np.testing.assert_array_equal(one.values, values[4:5])


def test_what_is_not_of_the_prior_is_refused() -> None:
    prior = fit(history())
    with pytest.raises(UnitsError, match="the history has units 'degC', and the prior has 'K'"):
        distilled(prior, history=history().assign_attrs(units="degC"))
    with pytest.raises(GridError, match="the measurements is on"):
        distilled(prior, measurements=history()[:, :3], objective="reverse")
    with pytest.raises(InputError, match="the history has no record"):
        prior.encode(history()[:0])
