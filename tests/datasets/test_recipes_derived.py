"""Data sets that are made out of others: on HEALPix, on the bunny, on the ocean mesh."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from apsgeo.datasets.derived import Built, derived
from apsgeo.datasets.healpix.recipe import OISST_HEALPIX, builder
from apsgeo.datasets.mesh import restrict, ugrid
from apsgeo.datasets.oisst_ocean_mesh.recipe import OISST_OCEAN_MESH
from apsgeo.datasets.on_bunny import recipe as on_bunny
from apsgeo.datasets.on_bunny.recipe import (
    DIGITS_ON_BUNNY,
    FIELDS_ON_BUNNY,
    picture_coordinates,
)
from apsgeo.datasets.recipe import Recipe, cache_dir
from apsgeo.domains import HEALPixDomain, MeshDomain
from apsgeo.errors import DatasetError
from apsgeo.io import write_netcdf
from apsgeo.labels.healpix import healpix_domain_of
from apsgeo.labels.mesh import from_ugrid
from tests.cases import numpy_seeded

LAT, LON = np.linspace(90, -90, 13, dtype="f4"), np.arange(0, 360, 15, dtype="f4")
OCTAHEDRON = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], "f8")
FACES = np.array(
    [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4], [1, 0, 5], [2, 1, 5], [3, 2, 5], [0, 3, 5]], "i4"
)


def opened(recipe: Recipe, raw: list[Path], folder: Path) -> xr.Dataset:
    return xr.open_dataset(write_netcdf(recipe.build(raw), folder / f"{recipe.name}.nc"))


def monthly(path: Path, name: str, values: np.ndarray) -> Path:
    time = np.datetime64("1981-01", "M") + np.arange(len(values))
    coords = {"time": time.astype("datetime64[ns]"), "lat": LAT, "lon": LON}
    attrs = {"title": "made up", "Conventions": "CF-1.10", "history": "made here"}
    xr.Dataset({name: (("time", "lat", "lon"), values.astype("f4"))}, coords, attrs).to_netcdf(path)
    return path


def mesh_file(path: Path, positions: np.ndarray, **coords: np.ndarray) -> Path:
    nodes = {name: ("node", values) for name, values in coords.items()}
    fields = xr.Dataset(
        {
            "position": (("node", "axis"), positions),
            "node_area": ("node", np.ones(len(positions))),
        },
        nodes,
    )
    ugrid(fields, FACES).to_netcdf(path)
    return path


@pytest.fixture
def bunny(tmp_path: Path) -> Path:
    axes = {f"node_{axis}": OCTAHEDRON[:, number] for number, axis in enumerate("xyz")}
    return mesh_file(tmp_path / "bunny.nc", OCTAHEDRON, **axes)


# --- what it is made of


@dataclasses.dataclass(frozen=True)
class Nowhere(Built):
    """A package that cannot be fetched."""

    def take(self, members: object, folder: Path) -> list[Path]:
        raise DatasetError("offline")


def part(name: str, **options: object) -> Recipe:
    def build(raw: list[Path]) -> xr.Dataset:
        return xr.Dataset({"x": ((), 1.0)})

    recipe = Recipe(name, "x", Built(()), (), build)
    return dataclasses.replace(recipe, **options)  # type: ignore[arg-type]


def test_a_derived_data_set_builds_what_it_is_made_of_and_keeps_it() -> None:
    source, members = derived(part("first"), part("second"))
    read: list[str] = []

    def build(raw: list[Path]) -> xr.Dataset:
        read.extend(path.name for path in raw)
        return xr.Dataset({"x": ((), 1.0)})

    part("both", source=source, members=members, build=build).path()
    assert read == ["first.r1.nc", "second.r1.nc"]
    assert sorted(file.name for file in cache_dir().iterdir()) == ["both.r1.nc", *read]
    with xr.open_dataset(cache_dir() / "both.r1.nc") as found:
        assert "built by apsgeo from first and second" in found.attrs["history"]


def test_a_derived_data_set_needs_no_source_if_its_parts_are_in_the_cache() -> None:
    part("first").path()
    source, members = derived(part("first", source=Nowhere(())))
    assert part("derived", source=source, members=members).path().is_file()
    missing, members = derived(part("second", source=Nowhere(())))
    with pytest.raises(DatasetError, match="offline"):
        part("another", source=missing, members=members).path()


def test_the_checksums_are_those_of_the_packages() -> None:
    sums = DIGITS_ON_BUNNY.source.checksums
    assert set(sums) == {"bunny: archive", "mnist: archive"}
    assert sums["mnist: archive"] in on_bunny.MNIST.source.checksums.values()


# --- HEALPix


def test_a_field_on_healpix_is_the_field(tmp_path: Path) -> None:
    sine = np.sin(np.deg2rad(LAT.astype("f8")))[:, None] + 0 * LON
    raw = monthly(tmp_path / "raw.nc", "z500", np.stack([sine, 1 - sine]))
    with builder("z500", level=2)([raw]) as built:
        found = built["z500"]
        assert healpix_domain_of(found) == HEALPixDomain(4, nest=True)
        # interpolated linearly over h = 15 degrees (h^2 / 8), and averaged over a pixel of side
        # a = 0.256, which flattens by about a^2 / 24
        error = np.deg2rad(15) ** 2 / 8 + 0.256**2 / 24
        expected = np.sin(np.deg2rad(found["lat"].values))
        assert np.abs(found.values[0] - expected).max() < error
        np.testing.assert_allclose(found.values.sum(0), 1.0, rtol=1e-6)
        assert built.attrs["title"] == "made up; averaged onto HEALPix, nside 4, nested"


def test_healpix_pixels_of_land_are_missing(tmp_path: Path) -> None:
    values = np.ones((2, len(LAT), len(LON)))
    values[:, LAT > 0] = np.nan
    raw = monthly(tmp_path / "raw.nc", "sst", values)
    sst = opened(OISST_HEALPIX, [raw], tmp_path)["sst"]
    assert sst.sizes == {"time": 2, "cells": 12288}
    assert sst.isel(cells=sst["lat"].values > 15).isnull().all()
    assert (sst.isel(cells=sst["lat"].values < 0) == 1).all()


# --- meshes


def test_a_mesh_is_restricted_to_whole_faces() -> None:
    kept = np.array([True, True, True, True, True, False])
    nodes, faces = restrict(FACES, kept)
    assert nodes.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(nodes[faces], FACES[:4])
    # node 3 stays in no face without nodes 4 and 5 on either side of it
    nodes, faces = restrict(FACES, np.array([True, True, False, True, True, False]))
    assert nodes[faces].tolist() == [[0, 1, 4], [3, 0, 4]]
    nodes, _ = restrict(FACES, np.array([True, True, True, False, True, False]))
    assert nodes.tolist() == [0, 1, 2, 4]


def test_the_temperature_is_that_of_the_grid_and_land_is_left_out(tmp_path: Path) -> None:
    values = numpy_seeded(0).normal(size=(3, len(LAT), len(LON)))
    values[:, 0] = np.nan  # the north pole
    values[:, -1] = values[:, -1, :1]  # a row at a pole is one point
    lat = np.array([0, 0, 0, 0, 90, -90.0])
    lon = np.array([0, 90, 180, 270, 0, 0.0])
    raw = [
        monthly(tmp_path / "sst.nc", "sst", values),
        mesh_file(tmp_path / "mesh.nc", OCTAHEDRON, lat=lat, lon=lon),
    ]
    found = opened(OISST_OCEAN_MESH, raw, tmp_path)
    mesh = from_ugrid(found)
    np.testing.assert_allclose(mesh.domain.vertices, OCTAHEDRON[[0, 1, 2, 3, 5]], atol=1e-12)
    np.testing.assert_allclose(found["node_area"], mesh.domain.areas, rtol=1e-12)
    expected = values[:, 6, [0, 6, 12, 18]]
    np.testing.assert_allclose(found["sst"].values[:, :4], expected, rtol=1e-6)
    np.testing.assert_allclose(found["sst"].values[:, 4], values[:, -1, 0], rtol=1e-6)


def test_the_picture_stands_upright_and_fills_the_mesh() -> None:
    positions = np.array([[-1, 2, 0], [1, 2, 5], [-1, 0, 1], [1, 0, 0], [0, 1, -9.0]])
    found = picture_coordinates(positions, (28, 28))
    np.testing.assert_allclose(found, [[0, 0], [0, 28], [28, 0], [28, 28], [14, 14]])
    narrow = picture_coordinates(positions * [0.5, 1, 1], (28, 28))
    np.testing.assert_allclose(narrow[:, 1], [7, 21, 7, 21, 14])


def test_digits_on_the_bunny_are_the_first_of_either_split(
    bunny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_bunny, "_COUNTS", {"train": 3, "test": 1})
    images = numpy_seeded(1).integers(0, 256, (7, 5, 5)).astype("u1")
    split = np.repeat(["train", "test"], [4, 3])
    digits = xr.Dataset(
        {"image": (("sample", "row", "col"), images / 255.0)},
        {"label": ("sample", np.arange(7, dtype="i2")), "split": ("sample", split)},
    )
    digits.to_netcdf(tmp_path / "mnist.nc")
    found = opened(DIGITS_ON_BUNNY, [bunny, tmp_path / "mnist.nc"], tmp_path)
    assert found["label"].values.tolist() == [0, 1, 2, 4]
    assert found["split"].values.tolist() == ["train", "train", "train", "test"]
    # right, top, left, bottom, and the middle from before and behind
    rows, columns = [2, 0, 2, 4, 2, 2], [4, 2, 0, 2, 2, 2]
    expected = images[[0, 1, 2, 4]][:, rows, columns] / 255.0
    np.testing.assert_allclose(found["image"], expected, atol=1e-6)


def test_fields_on_the_bunny_have_the_variance_that_the_card_says(
    bunny: Path, tmp_path: Path
) -> None:
    found = opened(FIELDS_ON_BUNNY, [bunny], tmp_path)
    field, domain = found["field"].values.astype("f8"), from_ugrid(found).domain
    assert domain == MeshDomain(OCTAHEDRON, FACES)
    share = domain.areas.numpy() / domain.areas.numpy().sum()
    mean_square = (field**2 @ share).mean()
    # of 1000 draws of at most six independent squares: standard error below sqrt(2 / 1000)
    assert abs(mean_square - 1) < 5 * np.sqrt(2 / 1000)
    # the constant is the smoothest eigenfunction and has the largest share
    eigenvalues = domain.eigenbasis(6)[0].numpy()
    kappa = np.sqrt(8) / (0.25 * np.sqrt(float(domain.areas.sum())))
    spectrum = (kappa**2 + eigenvalues) ** -2.0
    expected = spectrum[0] / spectrum.sum()
    assert abs((field @ share).var() / expected - 1) < 5 * np.sqrt(2 / 1000)
