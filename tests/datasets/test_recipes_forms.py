"""Recipes of images, meshes and orientations: their file formats, whole and damaged."""

import dataclasses
import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from apsgeo.datasets.bunny.recipe import BUNNY, read_mesh
from apsgeo.datasets.co2.recipe import CO2
from apsgeo.datasets.ebsd.recipe import EBSD, quaternions, read_channel
from apsgeo.datasets.faces.recipe import FACES_CBCL, FACES_ORL, undo_newlines
from apsgeo.datasets.fashion_mnist.recipe import FASHION_MNIST
from apsgeo.datasets.images import parse_pgm, read_idx
from apsgeo.datasets.mesh import check_faces, node_areas
from apsgeo.datasets.mnist.recipe import MNIST
from apsgeo.datasets.ocean_mesh.recipe import OCEAN_MESH
from apsgeo.datasets.recipe import Recipe
from apsgeo.errors import DatasetError
from apsgeo.io import write_netcdf
from tests.cases import numpy_seeded

RNG = numpy_seeded(0)


def opened(recipe: Recipe, raw: list[Path], folder: Path) -> xr.Dataset:
    return xr.open_dataset(write_netcdf(recipe.build(raw), folder / "built.nc"))


# --- IDX


def idx(values: np.ndarray) -> bytes:
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def idx_files(folder: Path, counts: tuple[int, int] = (5, 3), packed: bool = False) -> list[Path]:
    paths = []
    for number, count in enumerate(counts):
        for name, shape in (("images", (count, 4, 3)), ("labels", (count,))):
            content = idx(RNG.integers(0, 256 if name == "images" else 10, shape))
            path = folder / f"{number}-{name}"
            path.write_bytes(gzip.compress(content) if packed else content)
            paths.append(path)
    return paths


@pytest.mark.parametrize("shape", [(7,), (2, 3), (2, 4, 3)])
def test_idx_is_read_as_it_was_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    expected = RNG.integers(0, 256, shape)
    (tmp_path / "x").write_bytes(idx(expected))
    np.testing.assert_array_equal(read_idx(tmp_path / "x"), expected)
    (tmp_path / "x").write_bytes(gzip.compress(idx(expected)))
    np.testing.assert_array_equal(read_idx(tmp_path / "x"), expected)


def test_a_damaged_idx_file_is_refused(tmp_path: Path) -> None:
    whole, packed = idx(np.ones((2, 4, 3))), gzip.compress(idx(RNG.integers(0, 256, (2, 40, 30))))
    damaged = {
        "no IDX": [b"", b"\x00\x00\x08", b"P5 3 4 255 ", b"\x00\x00\x0d" + whole[3:]],
        "truncated": [whole[:-1], whole[:9], whole[:4], whole + b"\x00"],
        "cannot be decompressed": [packed[: len(packed) // 2], packed[:12]],
    }
    for match, contents in damaged.items():
        for content in contents:
            (tmp_path / "x").write_bytes(content)
            with pytest.raises(DatasetError, match=match):
                read_idx(tmp_path / "x")


@pytest.mark.parametrize(("recipe", "packed"), [(MNIST, False), (FASHION_MNIST, True)])
def test_idx_images_come_with_labels_and_split(
    recipe: Recipe, packed: bool, tmp_path: Path
) -> None:
    raw = idx_files(tmp_path, packed=packed)
    found = opened(recipe, raw, tmp_path)["image"]
    assert found.dims == ("sample", "row", "col")
    assert found.dtype == np.float32
    expected = np.concatenate([read_idx(raw[0]), read_idx(raw[2])])
    np.testing.assert_array_equal(np.rint(found.values * 255), expected)
    assert found.values.max() <= 1
    np.testing.assert_array_equal(found["label"][5:], read_idx(raw[3]))
    assert found["split"].values.tolist() == ["train"] * 5 + ["test"] * 3


def test_images_without_their_labels_are_refused(tmp_path: Path) -> None:
    raw = idx_files(tmp_path)
    with pytest.raises(DatasetError, match="labels of shape"):
        MNIST.build([raw[0], raw[3], raw[2], raw[1]])


# --- PGM


def pgm(values: np.ndarray, newline: bytes = b"\n") -> bytes:
    header = b"P5%b%d %d%b255%b" % (newline, values.shape[1], values.shape[0], newline, newline)
    return header + values.astype(np.uint8).tobytes()


def test_pgm_values_that_look_like_white_space_are_values() -> None:
    expected = np.array([[10, 32, 13], [9, 10, 10]])
    np.testing.assert_array_equal(parse_pgm(pgm(expected), "x"), expected)


def test_a_damaged_pgm_is_refused() -> None:
    whole = pgm(np.full((4, 3), 7))
    for content in (whole[:-1], whole + b"\x00", whole.replace(b"255", b"65535", 1)):
        with pytest.raises(DatasetError, match="truncated or damaged"):
            parse_pgm(content, "x")
    for content in (b"", whole[1:], b"P2\n3 4\n255\n", b"P5\n3"):
        with pytest.raises(DatasetError, match="no binary greymap"):
            parse_pgm(content, "x")


def smooth_picture(pair: int | None) -> np.ndarray:
    """A picture with tens in it, and at most one 13 10, in row ``pair``."""
    row, col = np.mgrid[:20, :15]
    picture = 60 + 8 * col + row
    picture[::4, 7] = 10
    if pair is not None:
        picture[pair, 6:8] = 13, 10
    return picture


@pytest.mark.parametrize("pair", [None, 4, 12], ids=str)
def test_a_picture_copied_as_text_is_restored(pair: int | None) -> None:
    picture = smooth_picture(pair)
    whole = pgm(picture)
    # As the copy did: a line feed gets a carriage return, unless it has one already.
    marked = (
        whole.replace(b"\r\n", b"\x00MARK").replace(b"\n", b"\r\n").replace(b"\x00MARK", b"\r\n")
    )
    assert len(marked) > len(whole)
    np.testing.assert_array_equal(parse_pgm(undo_newlines(marked, 20, 15), "x"), picture)
    assert undo_newlines(whole, 20, 15) == whole


def test_faces_come_with_their_people(tmp_path: Path) -> None:
    raw = []
    for person in (1, 2):
        (tmp_path / f"s{person}").mkdir()
        for number in (1, 2):
            raw.append(tmp_path / f"s{person}" / f"{number}.pgm")
            raw[-1].write_bytes(pgm(np.full((112, 92), 10 * person + number)))
    found = opened(FACES_ORL, raw, tmp_path)["image"]
    assert found["label"].values.tolist() == [1, 1, 2, 2]
    assert np.rint(found.values[:, 0, 0] * 255).tolist() == [11, 12, 21, 22]
    with pytest.raises(DatasetError, match="19 x 19"):
        FACES_CBCL.build(raw)


def test_the_members_of_the_faces_are_named_one_by_one() -> None:
    assert (len(FACES_ORL.members), len(FACES_CBCL.members)) == (400, 2429)
    assert FACES_CBCL.members[-1].endswith("face02429.pgm")


# --- meshes

TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def module(positions: Any, faces: Any) -> str:
    return f" exports.positions={json.dumps(positions)};\nexports.cells={json.dumps(faces)}\n"


def test_the_bunnys_module_is_read_not_run(tmp_path: Path) -> None:
    path = tmp_path / "index.js"
    path.write_text(module(TETRAHEDRON.tolist(), FACES.tolist()) + "throw 'run';")
    found = opened(BUNNY, [path], tmp_path)
    np.testing.assert_array_equal(found["position"], TETRAHEDRON)
    np.testing.assert_array_equal(found["face_nodes"], FACES)
    np.testing.assert_array_equal(found["node_y"], TETRAHEDRON[:, 1])
    np.testing.assert_allclose(found["node_area"].sum(), 1.5 + np.sqrt(3) / 2, rtol=1e-14)
    topology = found["mesh"].attrs
    assert topology["cf_role"] == "mesh_topology"
    assert topology["node_coordinates"] == "node_x node_y node_z"
    assert topology["face_node_connectivity"] in found
    assert found["node_area"].attrs["location"] == "node"


def test_a_damaged_module_is_refused(tmp_path: Path) -> None:
    path, good = tmp_path / "index.js", module(TETRAHEDRON.tolist(), FACES.tolist())
    for text, match in (
        ("", "no list of positions"),
        (good[: len(good) // 2], "no list of"),
        (good[:-10], "no list of cells"),
        (module([[0, 0], [1, 1]], [[0, 1, 2]]), "shape"),
        (module([[0, 0, 0], [1, 1]], [[0, 1, 2]]), "no list of positions"),
        (module(TETRAHEDRON.tolist(), [[0, 1, 4]]), "outside of 0 to 3"),
        (module(TETRAHEDRON.tolist(), [[0, 1, 1]]), "same node twice"),
        (module(TETRAHEDRON.tolist(), [[0, 1, 2, 3]]), "expected"),
        (module(TETRAHEDRON.tolist(), [[0, 1, 2.5]]), "integers"),
    ):
        path.write_text(text)
        with pytest.raises(DatasetError, match=match):
            read_mesh(path)


def test_node_areas_add_up_to_the_area() -> None:
    areas = node_areas(TETRAHEDRON, check_faces(FACES, 4, "the tetrahedron"))
    right, slanted = 0.5 / 3, np.sqrt(3) / 2 / 3
    np.testing.assert_allclose(areas, [3 * right] + [2 * right + slanted] * 3, rtol=1e-14)


def ocean_files(folder: Path) -> list[Path]:
    mesh = xr.Dataset(
        {
            "nlevels_nod2D": ("nod2", np.array([4, 3, 2, 4], "i4")),
            "nlevels": ("elem", np.array([2, 3], "i4")),
            "lon": ("nod2", [-170.0, 170, 0, 10]),
            "lat": ("nod2", [0.0, 10, 20, 30]),
            "nod_area": (("nz", "nod2"), np.arange(16.0).reshape(4, 4)),
            "zbar_n_bottom": ("nod2", [-100.0, -50, -10, -100]),
            "face_nodes": (("n3", "elem"), np.array([[1, 2], [2, 3], [3, 4]], "i4")),
        },
        {"nz1": -np.array([5.0, 30, 75])},
    )
    paths = [folder / "mesh.nc"]
    mesh.to_netcdf(paths[0])
    for name, where, size in (("temp", "nod2", 4), ("salt", "nod2", 4), ("u", "elem", 2)):
        paths.append(folder / f"{name}.nc")
        field = (("time", "nz1", where), 1 + np.arange(3.0 * size).reshape(1, 3, size))
        xr.Dataset({name: field}).to_netcdf(paths[-1])
    paths.append(folder / "v.nc")
    xr.open_dataset(paths[-2]).rename(u="v").to_netcdf(paths[-1])
    return paths


def test_the_ocean_mesh_is_ugrid_and_dry_below_the_floor(tmp_path: Path) -> None:
    found = opened(OCEAN_MESH, ocean_files(tmp_path), tmp_path)
    assert found["face_nodes"].values.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert found["face_nodes"].attrs["start_index"] == 0
    assert set(found["mesh"].attrs["node_coordinates"].split()) == {"lat", "lon"}
    nan = np.nan
    np.testing.assert_array_equal(found["temp"], [[1, 2, 3, 4], [5, 6, nan, 8], [9, nan, nan, 12]])
    np.testing.assert_array_equal(found["uo"], [[1, 2], [nan, 4], [nan, nan]])
    assert found["lon"].values.tolist() == [190, 170, 0, 10]
    assert found["depth"].values.tolist() == [5, 30, 75]
    assert found["node_area"].values.tolist() == [0, 1, 2, 3]
    assert (found["vo"].attrs["location"], found["salt"].attrs["location"]) == ("face", "node")


# --- EBSD

HEADER = """[General]
Version=5.0
[Fields]
Field1=3
Field2=4
Field3=5
Field4=6
Field5=7
Field6=8
Field7=10
Field8=11
Field9=12
Count=9
[Job]
GridDistX=0.5000
GridDistY=0.2500
xCells=3
yCells=2
"""


def channel_files(folder: Path) -> tuple[list[Path], np.ndarray]:
    angles = RNG.uniform([0, 0, 0], [2 * np.pi, np.pi, 2 * np.pi], (6, 3)).astype("f4")
    phases = [1, 0, 1, 1, 1, 0]
    records = b"".join(
        struct.pack("<B4f4Bf", phase, *(angle * (phase > 0)), 0.5 * phase, 90, 0, 8, 3, 0)
        for phase, angle in zip(phases, angles, strict=True)
    )
    (folder / "map.crc").write_bytes(records)
    (folder / "map.cpr").write_text(HEADER)
    return [folder / "map.crc", folder / "map.cpr"], angles


def test_ebsd_records_are_orientations_with_gaps(tmp_path: Path) -> None:
    raw, angles = channel_files(tmp_path)
    assert raw[0].stat().st_size == 6 * 25
    found = opened(EBSD, raw, tmp_path)
    assert found["orientation"].shape == (2, 3, 4)
    assert found["phase"].values.tolist() == [[1, 0, 1], [1, 1, 0]]
    gaps = found["phase"].values == 0
    for name in ("orientation", "euler"):
        assert np.isnan(found[name].values[gaps]).all()
        assert np.isfinite(found[name].values[~gaps]).all()
    np.testing.assert_array_equal(found["euler"].values[~gaps], angles.reshape(2, 3, 3)[~gaps])
    assert np.array_equal(np.isnan(found["mad"]), gaps)
    assert (found["band_contrast"] == 90).all()
    assert found["y"].values.tolist() == [0, 0.25]
    assert found["x"].values.tolist() == [0, 0.5, 1]


def test_a_damaged_map_is_refused(tmp_path: Path) -> None:
    (records, header), _ = channel_files(tmp_path)
    whole = records.read_bytes()
    for content in (b"", whole[:-1], whole[:-25], whole + b"\x00" * 25):
        records.write_bytes(content)
        with pytest.raises(DatasetError, match="truncated or damaged"):
            read_channel(records, header)
    for old, new in (("[Job]", ""), ("Count=9", "Count=10"), ("Field9=12", "Field9=99")):
        header.write_text(HEADER.replace(old, new))
        with pytest.raises(DatasetError, match="header that can be read"):
            read_channel(records, header)


def rotation_about(axis: int, angle: np.ndarray) -> np.ndarray:
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.tile(np.eye(3), (*angle.shape, 1, 1))
    matrix[..., first, first] = matrix[..., second, second] = np.cos(angle)
    matrix[..., second, first], matrix[..., first, second] = np.sin(angle), -np.sin(angle)
    return matrix


def test_quaternions_are_bunges_rotation() -> None:
    phi1, capital_phi, phi2 = RNG.uniform(0, np.pi, (3, 50))
    w, x, y, z = np.moveaxis(quaternions(2 * phi1, capital_phi, 2 * phi2), -1, 0)
    found = np.moveaxis(
        np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        ),
        -1,
        0,
    )
    expected = (
        rotation_about(2, 2 * phi1) @ rotation_about(0, capital_phi) @ rotation_about(2, 2 * phi2)
    )
    np.testing.assert_allclose(found, expected, atol=1e-14)  # a few dozen roundings
    assert (w >= 0).all()


def test_a_recipe_with_a_shared_folder_finds_its_card() -> None:
    assert FACES_ORL.card == FACES_CBCL.card
    assert dataclasses.replace(FACES_ORL, folder="").card != FACES_ORL.card


# --- R


def test_observations_of_carbon_dioxide_are_put_on_the_grid(tmp_path: Path) -> None:
    rdata = pytest.importorskip("rdata")
    lon, lat = np.array([-1.25, 0.0, 1.25]), np.array([-89.75, -89.0, 0.0, 89.75])
    truth = np.arange(12.0).reshape(3, 4)
    place = np.array([[0.0, -89.0], [1.25, 89.75]])

    def raw(where: np.ndarray) -> list[Path]:
        found = {
            "CO2": {"lon.lat": where, "y": np.array([7.0, 8.0])},
            "CO2.true": {"x": lon, "y": lat, "z": truth, "mask": truth > 0},
        }
        rdata.write_rda(tmp_path / "CO2.rda", found)
        return [tmp_path / "CO2.rda"]

    found = opened(CO2, raw(place), tmp_path)
    assert found["truth"].dims == ("lat", "lon")
    np.testing.assert_array_equal(found["truth"], truth.T)
    assert float(found["observed"].sel(lat=-89.0, lon=0.0)) == 7
    assert float(found["observed"].sel(lat=89.75, lon=1.25)) == 8
    assert int(found["observed"].notnull().sum()) == 2
    with pytest.raises(DatasetError, match="no cell of its grid"):
        CO2.build(raw(np.array([*place, [0.0, 0.25], [0.0, 0.0]])))
    with pytest.raises(DatasetError, match="several observations of one cell"):
        CO2.build(raw(place[[0, 0]]))
