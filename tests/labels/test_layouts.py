"""Which dims of an array are the nodes of a domain, and in which order."""

import numpy as np
import pytest
import xarray as xr

from apsgeo.domains import Domain, GraphDomain, HEALPixDomain, ImageDomain, LatLonDomain
from apsgeo.errors import GridError
from apsgeo.labels.healpix import label_healpix
from apsgeo.labels.layout import domain_of, layout_of
from tests.cases import numpy_seeded

LAT, LON = np.array([60.0, 20.0, -20.0, -60.0]), np.arange(0.0, 360.0, 60.0)


def array(dims: tuple[str, ...], shape: tuple[int, ...], **coords: object) -> xr.DataArray:
    return xr.DataArray(numpy_seeded(0).random(shape), coords, dims)


def curvilinear() -> tuple[GraphDomain, xr.DataArray]:
    """Return a region whose rows and columns are no circles of latitude or longitude."""
    y, x = np.meshgrid(np.arange(3.0), np.arange(3.0), indexing="ij")
    lat, lon = 40 + 2 * y + 0.5 * x, 10 + 3 * x - 0.4 * y
    placed = {"nav_lat": (("y", "x"), lat), "nav_lon": (("y", "x"), lon)}
    domain = GraphDomain.from_latlon(lat.ravel(), lon.ravel(), k=3)
    return domain, array(("time", "y", "x"), (2, 3, 3), **placed)


STATIONS = {"lat": ("station", LAT), "lon": ("station", LON[:4])}
CASES = {
    "grid": (array(("time", "lat", "lon"), (2, 4, 6), lat=LAT, lon=LON), LatLonDomain(LAT, LON)),
    "cells": (
        label_healpix(HEALPixDomain(2, False), np.zeros((2, 48)), ("time", "cells")),
        HEALPixDomain(2, False),
    ),
    "some cells": (
        label_healpix(HEALPixDomain(2, True, [9, 2, 30]), np.zeros(3)),
        HEALPixDomain(2, True, [9, 2, 30]),
    ),
    "image": (array(("time", "height", "width"), (2, 3, 5)), ImageDomain(3, 5)),
    "stations": (
        array(("time", "station"), (2, 4), **STATIONS),
        GraphDomain.from_latlon(LAT, LON[:4], k=3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_labels_say_the_domain(case: str) -> None:
    given, domain = CASES[case]
    assert domain_of(given) == domain
    layout = layout_of(given.transpose())
    assert layout.domain == domain
    values = layout.ordered(given.transpose()).values
    np.testing.assert_array_equal(
        layout.nodes(values), given.values.reshape(*values.shape[: -len(layout.shape)], -1)
    )
    np.testing.assert_array_equal(layout.places(layout.nodes(values)), values)


def test_rows_from_the_south_are_put_in_the_domain_s_order() -> None:
    given, domain = CASES["grid"]
    south = given.isel(lat=slice(None, None, -1))
    layout = layout_of(south, domain)
    np.testing.assert_array_equal(layout.nodes(south.values), given.values.reshape(2, -1))
    np.testing.assert_array_equal(layout.places(layout.nodes(south.values)), south.values)
    assert layout_of(south).order is None


def test_a_curvilinear_grid_is_known_by_place_either_way_round() -> None:
    domain, given = curvilinear()
    assert domain_of(given) == ImageDomain(3, 3)
    layout = layout_of(given, domain)
    assert (layout.dims, layout.shape, layout.order) == (("y", "x"), (3, 3), None)
    for turned in (given.transpose("x", "y", "time"), given[:, ::-1]):
        layout = layout_of(turned, domain)
        values = layout.ordered(turned).values
        np.testing.assert_array_equal(layout.nodes(values), given.values.reshape(2, 9))
        np.testing.assert_array_equal(layout.places(layout.nodes(values)), values)


def test_pixels_are_found_by_name_or_come_last() -> None:
    domain = ImageDomain(3, 5)
    assert layout_of(array(("x", "time", "y"), (5, 2, 3)), domain).dims == ("y", "x")
    assert layout_of(array(("time", "i", "j"), (2, 3, 5)), domain).dims == ("i", "j")
    assert layout_of(array(("i", "j", "time"), (3, 5, 2)), domain).dims == ("i", "j")
    for wrong in (array(("i", "j"), (5, 3)), array(("y", "x"), (3, 4)), array(("i",), (15,))):
        with pytest.raises(GridError, match=r"of the sizes \(3, 5\)"):
            layout_of(wrong, domain)


def test_nodes_without_places_are_along_the_dim_of_their_number() -> None:
    domain = GraphDomain(numpy_seeded(0).random((12, 2)), k=2)
    assert layout_of(array(("node", "time"), (12, 2)), domain).dims == ("node",)
    assert layout_of(array(("node", "time"), (12, 12)), domain).dims == ("node",)
    assert layout_of(array(("time", "i", "j"), (2, 3, 4)), domain).dims == ("i", "j")
    with pytest.raises(GridError, match=r"the array has dims \(time: 2, i: 3, j: 5\).*12 nodes"):
        layout_of(array(("time", "i", "j"), (2, 3, 5)), domain)


def test_cells_that_say_nothing_are_in_the_order_of_the_domain() -> None:
    ring = HEALPixDomain(2, False)
    layout = layout_of(array(("time", "pix"), (2, 48)), ring)
    assert (layout.dims, layout.order) == (("pix",), None)
    with pytest.raises(GridError, match="one dim of 48 nodes"):
        layout_of(array(("time", "i", "j"), (2, 6, 8)), ring)
    with pytest.raises(GridError, match="regrid one to the other"):
        layout_of(CASES["cells"][0], HEALPixDomain(4))
    with pytest.raises(GridError, match="lacks 45 of the pixels and has 0 others"):
        layout_of(CASES["some cells"][0], HEALPixDomain(2))


@pytest.mark.parametrize(
    ("domain", "match"),
    [
        (LatLonDomain(LAT, LON + 1), "on LatLonDomain.*fit a model on this grid"),
        (LatLonDomain(LAT, LON - 180), "counted from elsewhere"),
        (HEALPixDomain(2), "one dim of 48 nodes"),
        (
            GraphDomain.from_latlon(np.linspace(-80, 80, 24), np.arange(24)),
            "not those of the nodes",
        ),
    ],
)
def test_a_grid_is_on_no_other_domain(domain: Domain, match: str) -> None:
    with pytest.raises(GridError, match=match):
        layout_of(CASES["grid"][0], domain)


def test_stations_at_unknown_or_equal_places_are_refused() -> None:
    given, domain = CASES["stations"]
    unknown = given.assign_coords(lat=("station", [60.0, np.nan, -20.0, -60.0]))
    with pytest.raises(GridError, match="not those of the nodes"):
        layout_of(unknown, domain)
    twice = given.isel(station=[0, 1, 2, 2])
    with pytest.raises(GridError, match="not those of the nodes"):
        layout_of(twice, domain)
    with pytest.raises(GridError, match="same place"):
        layout_of(twice)


def test_stations_are_not_levels_of_the_same_number() -> None:
    given, domain = CASES["stations"]
    levels = given.expand_dims(level=4, axis=2)
    assert layout_of(levels).dims == layout_of(levels, domain).dims == ("station",)
    with pytest.raises(GridError, match="one dim of 4 nodes"):
        layout_of(levels.isel(station=slice(3)), domain)


def test_places_may_be_in_radians() -> None:
    given, domain = CASES["stations"]
    radian = {"units": "radian"}
    lat, lon = (("station", np.deg2rad(axis), radian) for axis in (LAT, LON[:4]))
    turned = given.assign_coords(lat=lat, lon=lon)
    assert layout_of(turned, domain).order is None
    np.testing.assert_allclose(domain_of(turned).positions, domain.positions)


def test_levels_must_be_chosen() -> None:
    given, domain = CASES["stations"]
    with pytest.raises(GridError, match=r"Select one along 'z' first, .isel\(z=0\)"):
        layout_of(given, domain).ordered(given.expand_dims(z=2))


def test_what_says_nothing_is_told_what_could() -> None:
    with pytest.raises(GridError, match=r"dims \(time: 2, node: 5\), and nothing says where"):
        domain_of(array(("time", "node"), (2, 5)))


def test_a_grid_scores_by_the_cosine_and_others_by_area() -> None:
    grid, cells = (layout_of(CASES[name][0]) for name in ("grid", "cells"))
    np.testing.assert_allclose(grid.weights, np.repeat(np.cos(np.deg2rad(LAT)), 6))
    np.testing.assert_allclose(cells.weights, 4 * np.pi / 48)
