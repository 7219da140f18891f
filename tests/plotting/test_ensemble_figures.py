"""Figures of ensembles: every domain has its maps; plumes and ranks show what they should."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError
from apsgeo.labels.labels import labels_of
from apsgeo.plotting.ensemble import plot_ensemble, plot_plume, plot_rank_histogram
from apsgeo.plotting.nodes import canvas_of
from apsgeo.statistics import Box
from apsgeo.xarray import impute
from tests.cases import numpy_seeded
from tests.places import PLACES
from tests.statistics.test_statistics import fields, model

pytestmark = pytest.mark.filterwarnings("ignore")


def members(place: str, count: int = 4) -> xr.DataArray:
    """Members (member, time, ...) of a domain, with its labels."""
    labels = labels_of(PLACES[place].domain)
    shape = (count, 3, *labels.layout.shape)
    array = xr.DataArray(
        numpy_seeded(0).normal(15, 3, shape),
        dims=("member", "time", *labels.layout.dims),
        coords={**labels.coords, "time": xr.date_range("2001-01-01", periods=3, freq="MS")},
        name="air",
        attrs={"units": "degC"},
    )
    return array


@pytest.mark.parametrize("place", PLACES)
def test_every_domain_has_its_maps(place: str) -> None:
    ensemble = members(place)
    seen = ensemble[0].where(numpy_seeded(1).random(ensemble.shape[1:]) < 0.3)
    figure = plot_ensemble(ensemble, seen, record=1, domain=PLACES[place].domain)
    figure.draw_without_rendering()
    titles = [axes.get_title().split(" (")[0] for axes in figure.axes if axes.get_title()]
    assert titles == ["Observed", "Ensemble mean", "Spread", "Member 1", "Member 2"]
    assert figure.get_suptitle() == "air, 2001-02-01"


@pytest.mark.parametrize("name", ["NorthPolarStereo", "Orthographic", "Robinson", "PlateCarree"])
@pytest.mark.parametrize("place", ["latlon", "healpix"])
def test_maps_in_projections_of_cartopy(place: str, name: str) -> None:
    crs = pytest.importorskip("cartopy.crs")
    projection = getattr(crs, name)()
    ensemble = members(place)
    seen = ensemble[0].where(numpy_seeded(1).random(ensemble.shape[1:]) < 0.3)
    figure = plot_ensemble(
        ensemble, seen, domain=PLACES[place].domain, projection=projection, members=1
    )
    figure.draw_without_rendering()
    canvas: Any = canvas_of(PLACES[place].domain, projection)
    west, east, south, north = canvas._globe._limits
    assert np.isfinite([west, east, south, north]).all()
    assert projection.x_limits[0] - 1 <= west < east <= projection.x_limits[1] + 1
    x, y = canvas._globe._project(np.array([0.0]), np.array([89.0]))
    seen_pole = west <= x[0] <= east and south <= y[0] <= north
    assert seen_pole or name == "Orthographic"  # which looks at the equator: the pole is its rim


def test_a_body_has_no_projection() -> None:
    with pytest.raises(InputError, match="no latitudes and longitudes"):
        canvas_of(PLACES["image"].domain, "a projection")


def test_nodes_of_a_sphere_are_drawn_where_they_are() -> None:
    canvas: Any = canvas_of(PLACES["healpix"].domain)
    lat = PLACES["healpix"].domain.positions.numpy()[:, 2]
    shown = np.append(lat, np.nan)[canvas._nearest]
    rows = np.sin(np.deg2rad(canvas._picture.lat))[:, None]
    assert np.abs(shown - rows).max() < 0.3  # half the height of a pixel of nside 4


def test_statistics_have_maps_and_plumes() -> None:
    posterior = model()
    found = impute(fields(posterior), posterior, 6, statistics="mean,std,q05,q95,area")
    figure = found.aps.plot()
    titles = [axes.get_title().split(" (")[0] for axes in figure.axes if axes.get_title()]
    assert titles == ["Ensemble mean", "Spread", "Quantile 0.05", "Quantile 0.95"]
    assert len(found.aps.plume().axes) == 1
    with pytest.raises(InputError, match="'mean'"):
        found[["air_std"]].aps.plot()
    with pytest.raises(InputError, match="'area'"):
        found[["air_std"]].aps.plume()


def test_a_plume_has_the_mean_of_each_region() -> None:
    ensemble = members("latlon", 9)
    domain = PLACES["latlon"].domain
    assert isinstance(domain, LatLonDomain)
    figure = plot_plume(ensemble, {"all": Box(-90, 90), "north": Box(0, 90)}, truth=ensemble[0])
    area = xr.DataArray(domain.areas.numpy().reshape(domain.shape), dims=("lat", "lon"))
    expected = ensemble.weighted(area).mean(("lat", "lon")).median("member")
    lines: dict[Any, Any] = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["median"].get_ydata(), expected, rtol=1e-12)
    assert [axes.get_title("left") for axes in figure.axes] == ["all", "north"]


def test_ranks_and_coverage_of_an_exchangeable_truth_are_flat() -> None:
    ensemble = members("latlon", 5)
    figure = plot_rank_histogram(ensemble[1:], ensemble[0])
    bars: Any = figure.axes[0].patches
    heights = np.array([bar.get_height() for bar in bars])
    assert len(heights) == 5
    np.testing.assert_allclose(heights.mean(), 1.0)
    assert np.abs(heights - 1).max() < 5 * np.sqrt(5 / ensemble[0].size)
    line = ensemble[1:].aps.reliability(ensemble[0]).axes[0].lines[1]
    assert line.get_xdata()[[0, -1]].tolist() == [0.1, 0.9]


def test_what_cannot_be_drawn() -> None:
    ensemble = members("latlon")
    with pytest.raises(InputError, match="member"):
        plot_ensemble(ensemble[0])
    with pytest.raises(InputError, match="same records"):
        plot_rank_histogram(ensemble, ensemble[0, :2])
    with pytest.raises(InputError, match="over time"):
        plot_plume(ensemble[:, 0])
