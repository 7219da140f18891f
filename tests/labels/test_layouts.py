"""Which dims of an array are the nodes of a domain, and in which order."""

import numpy as np
import pytest
import xarray as xr

from apsgeo import domains
from apsgeo.domains import Domain, GraphDomain, HEALPixDomain, ImageDomain, LatLonDomain
from apsgeo.errors import GridError, InputError
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


@pytest.mark.parametrize("start", [-180.0, -360.0, 60.0, 300.0])
def test_longitudes_may_be_counted_from_anywhere(start: float) -> None:
    given, domain = CASES["grid"]
    turned = given.assign_coords(lon=(LON - start) % 360 + start).sortby("lon")
    for other in (
        turned,
        turned[:, ::-1, ::-1],
        given.assign_coords(lon=(LON - start) % 360 + start),
    ):
        layout = layout_of(other, domain)
        np.testing.assert_array_equal(layout.nodes(other.values), given.values.reshape(2, -1))
        np.testing.assert_array_equal(layout.places(layout.nodes(other.values)), other.values)
    found = domain_of(turned)
    np.testing.assert_array_equal(
        found.positions.sort(0).values.round(decimals=9),
        domain.positions.sort(0).values.round(decimals=9),
    )


@pytest.mark.parametrize(
    "lon",
    [
        [350.0, 355.0, 0.0, 5.0, 10.0],
        [0.0, 5.0, 10.0, 350.0, 355.0],
        [10.0, 5.0, 0.0, 355.0, 350.0],
    ],
)
def test_a_region_across_greenwich_is_one_region(lon: list[float]) -> None:
    expected = LatLonDomain(LAT, [-10.0, -5.0, 0.0, 5.0, 10.0])
    given = array(("lat", "lon"), (4, 5), lat=LAT, lon=lon)
    domain = domain_of(given)
    assert isinstance(domain, LatLonDomain)
    np.testing.assert_allclose(domain.areas, expected.areas, rtol=1e-12)
    np.testing.assert_allclose(abs(domain.positions - expected.positions).max(), 0, atol=1e-12)
    plain = given.assign_coords(lon=(given.lon + 180) % 360 - 180).sortby("lon")
    for of in (domain, expected):
        np.testing.assert_array_equal(
            layout_of(given, of).nodes(given.values), layout_of(plain, of).nodes(plain.values)
        )


def test_a_grid_may_be_in_radians() -> None:
    given, domain = CASES["grid"]
    radian = {"units": "radians"}
    turned = given.assign_coords(
        lat=("lat", np.deg2rad(LAT), radian), lon=("lon", np.deg2rad(LON), radian)
    )
    np.testing.assert_allclose(domain_of(turned).areas, domain.areas, rtol=1e-12)
    assert layout_of(turned, domain).order is None


def test_pixels_are_known_by_their_coordinates() -> None:
    given = array(("y", "x"), (4, 5), y=np.arange(40.0, 0, -10), x=np.arange(5) * 10.0 + 300)
    domain = domain_of(given)
    assert domain == ImageDomain(4, 5)
    assert domains.from_config(domain.to_config()) == domain
    for turned in (given[::-1], given[:, ::-1], given[::-1, ::-1].transpose()):
        layout = layout_of(turned, domain)
        values = layout.ordered(turned).values
        np.testing.assert_array_equal(layout.nodes(values), given.values.ravel())
        np.testing.assert_array_equal(layout.places(layout.nodes(values)), values)
    for elsewhere in (given.assign_coords(x=given.x + 50), given.assign_coords(y=given.y * 1.1)):
        with pytest.raises(GridError, match=r"these are other pixels.*drop_vars\(\['y', 'x'\]\)"):
            layout_of(elsewhere, domain)
        assert layout_of(elsewhere.drop_vars(["y", "x"]), domain).order is None
    # means over blocks are where the blocks are
    coarse = domain.coarse()
    assert isinstance(coarse, ImageDomain)
    assert coarse.y is not None
    assert coarse.x is not None
    assert (coarse.y.tolist(), coarse.x.tolist()) == ([35.0, 15.0], [305.0, 330.0])
    with pytest.raises(GridError, match="these are other pixels"):
        layout_of(array(("y", "x"), (2, 2), y=[35.0, 15.0], x=[310.0, 330.0]), coarse)


def test_pixels_that_are_not_equally_far_apart_differ_in_size() -> None:
    given = array(("y", "x"), (3, 4), y=[0.0, 1.0, 2.0], x=[0.0, 1.0, 2.0, 5.0])
    widths = np.array([1.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(domain_of(given).areas, np.tile(widths, 3))


def test_rotated_grids_are_no_images_but_projections_are() -> None:
    lat, lon = np.meshgrid([50.0, 51.0, 52.0], [7.0, 8.0, 9.0, 10.0], indexing="ij")
    places = {"lat": (("y", "x"), lat), "lon": (("y", "x"), lon)}
    rotated = array(("y", "x"), (3, 4), **places)
    degrees = {"units": "degrees"}
    for each in (
        rotated,
        array(("y", "x"), (3, 4), y=("y", [0, 1, 2], degrees), x=("x", [0, 1, 2, 3], degrees)),
    ):
        with pytest.raises(GridError, match=r"curvilinear or rotated.*ImageDomain\(3, 4\)"):
            domain_of(each)
    metre = {"units": "m"}
    projected = rotated.assign_coords(y=("y", [0, 1, 2], metre), x=("x", [0, 1, 2, 3], metre))
    assert domain_of(projected) == ImageDomain(3, 4)
    with pytest.raises(GridError, match="curvilinear or rotated"):
        domain_of(rotated.rename(y="rlat", x="rlon"))


def test_a_curvilinear_grid_is_known_by_place_either_way_round() -> None:
    domain, given = curvilinear()
    with pytest.raises(GridError, match=r"curvilinear.*areas differ|curvilinear.*differ in area"):
        domain_of(given)
    assert layout_of(given, ImageDomain(3, 3)).order is None
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
        (LatLonDomain(LAT, LON[1:4]), "a part of the data: select it"),
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


def test_pixels_are_as_many_as_the_domain_has() -> None:
    for values, dims in ((np.zeros((2, 49)), ("time", "cells")), (np.zeros(48), ("time", "cells"))):
        with pytest.raises(InputError, match="the last one over the 48 pixels"):
            label_healpix(HEALPixDomain(2), values, dims)
