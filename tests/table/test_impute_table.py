"""Observations as tables: points on every domain, against the closed form and a grid's nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

import apsgeo
from apsgeo.cli import app
from apsgeo.domains import Domain, GraphDomain, ImageDomain, LatLonDomain, MeshDomain
from apsgeo.domains.interpolation import interpolation
from apsgeo.errors import InputError, LeftOutWarning, OnLandWarning, OutlierWarning
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.draws import WhiteNoise
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.own_spread import OwnSpread
from apsgeo.labels.labels import labels_of
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.table.read import read_table
from tests.cases import alike, history, numpy_seeded
from tests.places import PLACES

NOISE = 0.3


def posterior_on(domain: Domain, km: float, exact: bool = True) -> Posterior:
    """A Gaussian posterior of samples without dates."""
    rng = numpy_seeded(0)
    places = domain.positions.numpy() / np.abs(domain.positions.numpy()).max()
    waves = np.concatenate([np.cos(3 * places), np.sin(2 * places)], axis=1)
    values = 5.0 + rng.standard_normal((40, waves.shape[1])) @ waves.T
    values += 0.3 * rng.standard_normal(values.shape)
    layout = labels_of(domain).layout
    fields = xr.DataArray(
        values.reshape(-1, *layout.shape).astype(np.float32),
        dims=("sample", *layout.dims),
        name="air",
    )
    scales = HybridScales(0.5, km, 0.05)
    options: Any = {"scales": scales, "anchor_scales": scales, "rank": 4}
    prior = apsgeo.fit_prior(
        fields.assign_coords(labels_of(domain).coords), domain, steps=0, progress=False, **options
    )
    method = prior.anchor if exact else VecchiaPrior(prior.anchor)
    return Posterior.of(prior, method, Mask(), NOISE)


def table_at(domain: Domain, points: Any) -> pd.DataFrame:
    """A table of values at points, in the columns that the domain's labels are called by."""
    names = {
        ImageDomain: ("y", "x"),
        MeshDomain: ("lat", "lon"),
    }
    points = np.asarray(points, dtype=np.float64)
    if isinstance(domain, MeshDomain):
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        points = np.rad2deg(
            np.stack([np.arcsin(unit[:, 2]), np.arctan2(unit[:, 1], unit[:, 0])], 1)
        )
    columns = names.get(type(domain), ("lat", "lon"))
    frame = pd.DataFrame(points, columns=list(columns))
    rng = numpy_seeded(1)
    return frame.assign(
        value=5.0 + rng.standard_normal(len(frame)), error=[0.2, 0.5, 0.3, 0.4][: len(frame)]
    )


@pytest.mark.parametrize("name", PLACES)
def test_members_have_the_moments_of_the_closed_form(name: str) -> None:
    place = PLACES[name]
    domain = place.domain
    posterior = posterior_on(domain, place.km)
    frame = table_at(domain, place.points)
    points = np.asarray(place.points, dtype=np.float64)
    if isinstance(domain, MeshDomain):
        points = points / np.linalg.norm(points, axis=1, keepdims=True)
    count = 4000
    members = apsgeo.impute(frame, posterior, members=count)
    nodes = members.values.reshape(count, -1).astype(np.float64)
    # x = mean + C A^T (A C A^T + R)^-1 (y - A mean), in the units of the data
    normals, prior = posterior.normals, posterior.method.annual  # type: ignore[attr-defined]
    std, mean = (each[0, 0].double().numpy() for each in (normals.std, normals.mean))
    every = np.arange(domain.num_nodes)
    covariance = std[:, None] * prior.covariance(every, every) * std
    a = interpolation(domain, points).toarray()
    gain = covariance @ a.T @ np.linalg.inv(a @ covariance @ a.T + np.diag(frame.error**2))
    expected = mean + gain @ (frame.value.to_numpy() - a @ mean)
    variance = np.diag(covariance - gain @ a @ covariance)
    # six standard errors of a mean and of a variance of so many members
    error = np.sqrt(variance / count)
    assert (np.abs(nodes.mean(0) - expected) < 6 * error + 1e-4).all()
    assert (np.abs(nodes.var(0) / variance - 1) < 6 * np.sqrt(2 / count)).all()


@pytest.fixture(scope="module")
def months() -> xr.DataArray:
    return history(20)


@pytest.fixture(scope="module")
def model(months: xr.DataArray) -> Posterior:
    scales = HybridScales(0.5, 3000.0, 0.05)
    prior = apsgeo.fit_prior(
        months, scales=scales, anchor_scales=scales, rank=4, memory=False, steps=0, progress=False
    )
    return Posterior.of(prior, VecchiaPrior(prior.anchor), Mask(), NOISE)


@pytest.fixture
def frame(months: xr.DataArray) -> pd.DataFrame:
    """Values of three months at nodes, on days of these months, by two instruments."""
    rng = numpy_seeded(2)
    cells = months[24:27].to_series().sample(60, random_state=3).reset_index()
    cells["time"] += pd.to_timedelta(rng.integers(0, 27, 60), unit="D")
    return cells.assign(error=NOISE, instrument=rng.choice(["ship", "buoy"], 60))


def test_rows_at_nodes_are_the_grid_s_own_values(
    months: xr.DataArray, model: Posterior, frame: pd.DataFrame
) -> None:
    table = apsgeo.impute(frame, model, members=5)
    obs = months[24:27].where(False)
    for _, row in frame.iterrows():
        month = np.datetime64(row.time, "M").astype("datetime64[ns]")
        obs.loc[{"time": month, "lat": row.lat, "lon": row.lon}] = row.air
    grid = apsgeo.impute(obs, model, members=5, noise_std=NOISE)
    # sums of up to 60 observations, in float32, of fields of about 30
    alike(table.values, grid.values, 4000)
    xr.testing.assert_equal(table.time.drop_attrs(), months.time[24:27].drop_attrs())
    assert (table.name, table.attrs["units"]) == ("air", "degC")
    assert table.attrs["method"] == "local Gaussian"


def test_a_record_depends_on_its_own_rows_alone(model: Posterior, frame: pd.DataFrame) -> None:
    whole = apsgeo.impute(frame, model, members=4).compute()
    shuffled = apsgeo.impute(frame.sample(frac=1, random_state=1), model, members=4)
    alike(shuffled.compute(), whole, 4000)
    one = frame[frame.time.dt.month == frame.time.dt.month.iloc[0]]
    alone = apsgeo.impute(one, model, members=6).compute()[:4]
    alike(alone, whole.sel(time=alone.time), 4000)


def test_stations_share_a_factor(model: Posterior) -> None:
    times = pd.date_range("2000-01-01", periods=3, freq="YS")
    sites = pd.DataFrame({"lat": [10.0, -20.0], "lon": [3.0, 100.0]})
    table = sites.merge(pd.DataFrame({"time": times}), how="cross").assign(value=15.0)
    from apsgeo.table.columns import Table
    from apsgeo.table.draw import Block, PointSampler
    from apsgeo.table.rows import rows_of

    rows = rows_of(Table.of(table, ["air"]), model.domain, model.normals.valid.numpy())
    record = np.tile([0, 1, 2], 2)
    records = np.zeros(3, [("key", "i8"), ("season", "i8"), ("time", "f8"), ("instant", "f8")])
    block = Block(rows, np.full(6, NOISE), record, records)
    sampler = PointSampler(model, 1, 0, labels_of(model.domain).layout)
    measured = sampler.measure(block)
    assert measured.values.shape == (3, 1, 2)
    assert bool(measured.mask.all())


@pytest.mark.parametrize(
    "columns",
    [
        {"time": "date", "lat": "Latitude", "lon": "LONGITUDE", "air": "Value", "error": "sigma"},
        {"time": "JULD", "lat": "lat (deg)", "lon": "lng", "air": "air [degC]", "error": "std-dev"},
        {"air": "t2m"},  # the only numbers that are left
    ],
)
def test_columns_go_by_their_usual_names(
    model: Posterior, frame: pd.DataFrame, columns: dict[str, str]
) -> None:
    expected = apsgeo.impute(frame, model, members=2).compute()
    named = frame.rename(columns=columns).assign(station_id=3, qc_flag=0)
    alike(apsgeo.impute(named, model, members=2).values, expected.values, 1)


def test_longitudes_may_be_counted_either_way(model: Posterior, frame: pd.DataFrame) -> None:
    west = frame.assign(lon=(frame.lon + 180.0) % 360.0 - 180.0)
    expected = apsgeo.impute(frame, model, 2).values
    alike(apsgeo.impute(west, model, 2).values, expected, 64)
    both = pd.concat([frame, west.assign(air=west.air + 0.1)])  # stations, seen twice
    again = pd.concat([frame, frame.assign(air=frame.air + 0.1)])
    alike(apsgeo.impute(both, model, 2).values, apsgeo.impute(again, model, 2).values, 64)


def test_units_are_converted(model: Posterior, frame: pd.DataFrame) -> None:
    expected = apsgeo.impute(frame, model, members=2).compute()
    for kelvin in (
        frame.assign(air=frame.air + 273.15).rename(columns={"air": "air [K]"}),
        frame.assign(air=frame.air + 273.15, units="K"),
    ):
        alike(apsgeo.impute(kelvin, model, members=2).compute().values, expected.values, 64 * 300)
    with pytest.raises(InputError, match="units 'm', and the model has 'degC'"):
        apsgeo.impute(frame.assign(units="m"), model)


def test_noise_is_of_each_row_of_each_instrument_or_the_model_s(
    model: Posterior, frame: pd.DataFrame
) -> None:
    bare = frame.drop(columns="error")
    expected = apsgeo.impute(frame, model, members=2).values
    alike(apsgeo.impute(bare, model, members=2).values, expected, 1)
    by_name = {"ship": NOISE, "buoy": NOISE}
    alike(apsgeo.impute(bare, model, members=2, noise_std=by_name).values, expected, 1)
    some = frame.assign(error=frame.error.where(frame.index % 2 == 0))
    alike(apsgeo.impute(some, model, members=2, noise_std=NOISE).values, expected, 1)
    with pytest.raises(InputError, match="noise_std has nothing for buoy"):
        apsgeo.impute(bare, model, noise_std={"ship": 1.0})
    with pytest.raises(InputError, match="no column of obs holds these names"):
        apsgeo.impute(bare, model, noise_std={"satellite": 1.0})


def test_several_tables_are_one(model: Posterior, frame: pd.DataFrame) -> None:
    ships, buoys = (frame[frame.instrument == name] for name in ("ship", "buoy"))
    both = apsgeo.impute([ships, buoys.drop(columns="instrument")], model, members=2).compute()
    alike(both, apsgeo.impute(frame, model, members=2).compute(), 4000)


@pytest.mark.parametrize(
    ("freq", "count"), [("MS", 3), ("D", 20), ("6h", 20), ("YS", 1), ("5D", 10)]
)
def test_records_are_bins_of_time(
    model: Posterior, frame: pd.DataFrame, freq: str, count: int
) -> None:
    times = apsgeo.impute(frame, model, members=1, freq=freq).time
    assert len(np.unique(times)) == times.size
    assert times.size >= count or freq in ("MS", "YS")
    assert times.size == count or freq not in ("MS", "YS")
    first = frame.time.min()
    start = pd.Timestamp(times.values[0])
    assert start <= first < start + pd.Timedelta(days=366)


def test_other_calendars(model: Posterior, frame: pd.DataFrame) -> None:
    import cftime

    dates = [cftime.DatetimeNoLeap(t.year, t.month, t.day) for t in frame.time]
    members = apsgeo.impute(frame.assign(time=dates), model, members=2)
    expected = apsgeo.impute(frame, model, members=2)
    assert [str(t)[:10] for t in members.time.values] == [str(t)[:10] for t in expected.time.values]
    daily = apsgeo.impute(frame.assign(time=dates), model, members=1, freq="D")
    assert daily.sizes["time"] == frame.time.nunique()
    with pytest.raises(InputError, match="of the calendar 'noleap'"):
        apsgeo.impute(frame.assign(time=dates), model, freq="5D")


def test_rows_elsewhere_or_twice_are_left_out_with_a_warning() -> None:
    regional = LatLonDomain(np.arange(60.0, 32.0, -3.0), np.arange(-10.0, 16.0, 3.0))
    posterior = posterior_on(regional, 600.0)
    inside = pd.DataFrame({"lat": [50.0, 40.0], "lon": [0.0, 5.0], "value": [5.0, 6.0]})
    more = pd.concat([inside, pd.DataFrame({"lat": [-10.0], "lon": [0.0], "value": [7.0]})])
    expected = apsgeo.impute(inside, posterior, members=2).values
    with pytest.warns(
        LeftOutWarning, match=r"1 of the 3 rows .* lat=-10, lon=0: they are left out"
    ):
        alike(apsgeo.impute(more, posterior, members=2).values, expected, 1)
    twice = pd.concat([inside, inside.iloc[:1]])
    with pytest.warns(LeftOutWarning, match=r"1 rows that are there before.* lat=50, lon=0"):
        alike(apsgeo.impute(twice, posterior, members=2).values, expected, 1)
    with pytest.raises(InputError, match="none of the 1 rows of obs is on LatLonDomain"):
        apsgeo.impute(more.iloc[2:], posterior)


def test_outliers_and_land(months: xr.DataArray, frame: pd.DataFrame, model: Posterior) -> None:
    wrong = frame.assign(air=frame.air.where(frame.index != 7, 9999.0))
    with pytest.warns(OutlierWarning, match="1 observed values .*9999 degC at lat="):
        members = apsgeo.impute(wrong, model, members=2).compute()
    alike(members.values, apsgeo.impute(frame.drop(index=7), model, members=2).values, 4000)
    land = months.where((months.lat > -70) | (months.lon > 0))
    scales = HybridScales(0.5, 3000.0, 0.05)
    prior = apsgeo.fit_prior(
        land, scales=scales, anchor_scales=scales, rank=4, memory=False, steps=0, progress=False
    )
    coast = Posterior.of(prior, VecchiaPrior(prior.anchor), Mask(), NOISE)
    at = pd.DataFrame(
        {"time": "2000-01-01", "lat": [-75.0, -75.0], "lon": [5.0, 30.0], "air": 15.0}
    )
    with pytest.warns(OnLandWarning, match="1 observed values lie where the model has none"):
        assert apsgeo.impute(at, coast, members=2)[:, 0].isnull().sum() == 2


BAD: dict[str, tuple[Any, str]] = {
    "no rows": (lambda f: f.iloc[:0], "has no row"),
    "no values": (lambda f: f.assign(air=np.nan), "no value in any row"),
    "infinite": (lambda f: f.assign(air=np.inf), "60 infinite values"),
    "no place": (lambda f: f.drop(columns="lat"), "no columns 'lat' and 'lon'"),
    "no column of values": (
        lambda f: f.rename(columns={"air": "depth"}), "none is called 'air'"
    ),
    "two that may be": (lambda f: f.rename(columns={"air": "q"}).assign(p=1.0), "none is called"),
    "two variables": (
        lambda f: f.rename(columns={"air": "value"}).assign(
            variable=np.where(f.index % 2, "air", "rain")
        ),
        "has the variables rain, and the model air",
    ),
    "no time": (lambda f: f.drop(columns="time"), "no column 'time', and the model has 12 seasons"),
    "numbers for dates": (lambda f: f.assign(time=20010101), "has numbers in its column 'time'"),
    "dates of two countries": (
        lambda f: f.assign(time=f.time.dt.strftime("%d/%m/%Y")), "day or the month may come first"
    ),
    "words for dates": (lambda f: f.assign(time="soon"), "cannot be read as dates"),
    "a gap in time": (lambda f: f.assign(time=f.time.where(f.index > 0)), "no time in 1 rows"),
    "a gap in place": (lambda f: f.assign(lon=f.lon.where(f.index > 0)), "no lon in 1 rows"),
    "latitude of a fill value": (lambda f: f.assign(lat=-9999.0), "the lat -9999 in row 0"),
    "longitude of another circle": (lambda f: f.assign(lon=4e3), "the lon 4000 in row 0"),
    "words for values": (lambda f: f.assign(air="warm"), "has 'warm' in its column 'air'"),
    "words for errors": (lambda f: f.assign(error="small"), "has 'small' in its column 'error'"),
    "no error": (lambda f: f.assign(error=0.0), "an error of 0 in 60 rows"),
    "negative error": (lambda f: f.assign(error=-1.0), "an error of -1 in 60 rows"),
    "two latitudes": (lambda f: f.rename(columns={"error": "Lat"}), "several columns .* the lat"),
    "dates for values": (lambda f: f.assign(air=f.time), "has no numbers in its column 'air'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused(model: Posterior, frame: pd.DataFrame, case: str) -> None:
    change, match = BAD[case]
    with pytest.raises(InputError, match=match):
        apsgeo.impute(change(frame), model)


def test_bad_arguments_are_refused(model: Posterior, frame: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="freq='fortnight' given; expected 'MS'"):
        apsgeo.impute(frame, model, freq="fortnight")
    with pytest.raises(InputError, match="a table needs a model"):
        apsgeo.impute(frame)
    with pytest.raises(InputError, match="is for tables"):
        apsgeo.impute(history(2), model, freq="MS")
    with pytest.raises(InputError, match="whose rows say what they measure"):
        apsgeo.impute(frame, model, operator=Mask())
    with pytest.raises(InputError, match="noise_std=-1.0 given"):
        apsgeo.impute(frame.drop(columns="error"), model, noise_std=-1.0)


def test_several_variables() -> None:
    rng = numpy_seeded(5)
    domain = LatLonDomain(np.linspace(75, -75, 6), np.arange(0, 360, 36.0))
    values = rng.standard_normal((2, 40, 6, 10)).cumsum(axis=3).astype(np.float32)
    coords = {"lat": domain.lat, "lon": domain.lon}
    winds = xr.Dataset(
        {
            n: (("sample", "lat", "lon"), v, {"units": "m/s"})
            for n, v in zip("uv", values, strict=True)
        },
        coords,
    )
    scales = HybridScales(0.5, 3000.0, 0.05)
    options: Any = {"scales": scales, "anchor_scales": scales, "rank": 4, "steps": 0}
    prior = apsgeo.fit_prior(winds, progress=False, **options)
    posterior = Posterior.of(prior, prior.anchor, Mask(), NOISE)
    wide = pd.DataFrame(
        {"lat": [0.0, 30.0], "lon": [5.0, 40.0], "u": [1.0, np.nan], "v": [2.0, 3.0]}
    )
    members = apsgeo.impute(wide, posterior, members=3)
    assert list(members.data_vars) == ["u", "v"]
    assert members.u.attrs["units"] == members.v.attrs["units"] == "m/s"
    long = wide.melt(["lat", "lon"], var_name="variable", value_name="value").dropna()
    other = apsgeo.impute(long, posterior, members=3)
    alike(members.u.values, other.u.values, 4000)
    with pytest.raises(InputError, match="has the variables w, and the model u, v"):
        apsgeo.impute(long.assign(variable="w"), posterior)
    with pytest.raises(InputError, match="give a column for each, or one called 'variable'"):
        apsgeo.impute(long.drop(columns="variable"), posterior)


def test_a_flow_gives_way_to_the_method_that_it_starts_from(
    months: xr.DataArray, model: Posterior, frame: pd.DataFrame, tmp_path: Path
) -> None:
    flow = Posterior.load(small_flow(months, tmp_path))
    anchor = flow.flow.anchor
    assert anchor is not None
    start = replace(model, method=VecchiaPrior(anchor, spread=OwnSpread()))
    alike(
        apsgeo.impute(frame, flow, members=2).values,
        apsgeo.impute(frame, start, members=2).values,
        4000,
    )
    with pytest.raises(InputError, match="knows its own operator alone"):
        apsgeo.impute(frame, replace(flow, method=WhiteNoise()))


def test_members_are_drawn_when_asked_for(
    model: Posterior, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apsgeo.table.draw import PointSampler

    calls = []
    drawn = PointSampler.__call__

    def counted(self: PointSampler, block: Any, records: Any) -> Any:
        calls.append(len(records))
        return drawn(self, block)

    monkeypatch.setattr(PointSampler, "__call__", counted)
    members = apsgeo.impute(frame, model, members=3)
    assert calls == []
    members.compute()
    assert calls == [3]


def test_points_of_a_graph_are_near_its_nodes() -> None:
    stations = GraphDomain.from_latlon([50.0, 51.0, 52.0, 50.5], [0.0, 1.0, 0.0, 2.0], k=2)
    assert interpolation(stations, [[50.1, 0.1]]).toarray().tolist() == [[1.0, 0.0, 0.0, 0.0]]
    with pytest.raises(InputError, match="1 points are off GraphDomain"):
        interpolation(stations, [[-30.0, 100.0]])


def test_statistics_are_those_of_the_members(model: Posterior, frame: pd.DataFrame) -> None:
    members = apsgeo.impute(frame, model, members=8).compute()
    found = apsgeo.impute(frame, model, members=8, statistics=["mean", "q50"])
    alike(found.air_mean, members.mean("member").assign_attrs(found.air_mean.attrs), 4000)
    median = found.air_quantile.isel(quantile=0, drop=True)
    alike(median.values, members.quantile(0.5, "member").values.astype(np.float32), 4000)
    assert found.attrs["method"] == "local Gaussian"


# Files


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "txt", "parquet"])
def test_the_command_takes_tables(
    months: xr.DataArray, frame: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    model = small_flow(months, tmp_path)
    table = tmp_path / f"obs.{suffix}"
    plain = frame.assign(time=frame.time.dt.strftime("%Y-%m-%d"))
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(table)
    else:
        separator = {"tsv": "\t", "txt": " "}.get(suffix, ",")
        plain.to_csv(table, sep=separator, index=False)
    output = tmp_path / "filled.nc"
    line = ["impute", str(table), str(model), str(output), "--members", "2"]
    done = CliRunner().invoke(app, [*line, "--shared-error", "instrument=0.5"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "local Gaussian" in done.stderr
    before = table.read_bytes()
    lost = CliRunner().invoke(app, ["impute", str(table), str(model), str(table), "--overwrite"])
    assert lost.exit_code == 2
    assert "is what is read, and would be lost" in lost.stderr
    assert table.read_bytes() == before
    with xr.open_dataset(output) as filled:
        assert dict(filled.air.sizes) == {"member": 2, "time": 3, "lat": 6, "lon": 10}
        assert f"obs.{suffix}" in filled.attrs["history"]
        error = apsgeo.SharedError(0.5, by="instrument")
        expected = apsgeo.impute(frame, Posterior.load(model), members=2, shared_error=error)
        alike(filled.air.values, expected.values, 4000)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "cannot be read as a table"),
        (b"\xff\xfe\x00\x01" * 50, "cannot be read as a table|has the columns|has no row"),
        (b"time,lat,lon\n2000-01-01,1,2\n", "none is called 'air'"),
        (b"time,lat,lon,air\n2000-01-01,1,2,3,4,5\n1,2\n", "cannot be read|has no|has numbers"),
    ],
)
def test_the_command_refuses_what_is_no_table(
    months: xr.DataArray, tmp_path: Path, content: bytes, match: str
) -> None:
    import re

    model = small_flow(months, tmp_path)
    table = tmp_path / "obs.csv"
    table.write_bytes(content)
    output = tmp_path / "filled.nc"
    done = CliRunner().invoke(app, ["impute", str(table), str(model), str(output)])
    assert done.exit_code == 2, (done.output, done.exception)
    assert re.search(f"^error: .*({match})", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.output
    assert not output.exists()


_KEPT: dict[int, Posterior] = {}


def small_flow(months: xr.DataArray, folder: Path) -> Path:
    """Save an untrained flow, made once."""
    if id(months) not in _KEPT:
        scales = HybridScales(0.5, 3000.0, 0.05)
        options: Any = {"scales": scales, "anchor_scales": scales, "rank": 4, "steps": 0}
        prior = apsgeo.fit_prior(months, memory=False, progress=False, **options)
        spec = CouplingSpec(width=4, depth=1, context=4)
        _KEPT[id(months)] = apsgeo.distill(
            prior, Mask(), NOISE, spec=spec, steps=0, folds=2, rounds=1, progress=False
        )
    return _KEPT[id(months)].save(folder / "model")


def test_csv_of_semicolons_may_have_decimal_commas(tmp_path: Path) -> None:
    for name, point in (("commas", ","), ("points", ".")):
        lines = ["time;lat;lon;air", "2000-01-31;10.5;-20;1.25", "2000-02-01;-1;3.5;2"]
        (tmp_path / name).with_suffix(".csv").write_text("\n".join(lines).replace(".", point))
        found = read_table(tmp_path / f"{name}.csv")
        columns = found[["lat", "lon", "air"]].apply(pd.to_numeric)
        assert columns.to_numpy().tolist() == [[10.5, -20.0, 1.25], [-1.0, 3.5, 2.0]]
