"""From what users hold to domains and signals, and back."""

import math
import sys
from pathlib import Path

import healpy
import numpy as np
import pytest
import torch
import xarray as xr

from apsgeo.domains import HEALPixDomain, ImageDomain
from apsgeo.errors import GridError, InputError
from apsgeo.labels.healpix import (
    from_healpix_map,
    healpix_dim,
    healpix_domain_of,
    label_healpix,
    read_healpix,
    to_healpix_map,
)
from apsgeo.labels.image import from_image, to_image
from apsgeo.labels.mesh import from_ugrid, from_ugrid_faces, read_mesh, tidy_mesh
from tests.cases import numpy_seeded


def test_images_of_numpy_and_torch_are_the_same_signal() -> None:
    pixels = torch.arange(24.0).reshape(2, 3, 4)
    domain, signal = from_image(pixels)
    assert domain == ImageDomain(3, 4)
    assert signal.shape == (2, 12)
    assert torch.equal(to_image(domain, signal), pixels)
    again, same = from_image(pixels.permute(1, 2, 0).numpy())
    assert again == domain
    assert torch.equal(same, signal)
    assert torch.equal(from_image(pixels[0].numpy())[1], signal[:1])
    assert from_image(pixels[None])[1].shape == (1, 2, 12)
    assert from_image(np.zeros((5, 3, 4, 2)))[1].shape == (5, 2, 12)


def test_integers_become_floats_and_masked_pixels_nan() -> None:
    masked = np.ma.masked_array(np.array([[1, 255], [3, 4]], dtype=np.uint8), [[0, 0], [1, 0]])
    _, signal = from_image(masked)
    assert signal.dtype == torch.float32
    assert signal[0, [0, 1, 3]].tolist() == [1, 255, 4]
    assert signal[0, 2].isnan()
    assert from_image(np.array([[True, False]]))[1].tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "image", [np.zeros(3), torch.zeros(1, 1, 1, 1, 1), np.zeros((2, 2), complex), np.array([["a"]])]
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"\(H, W|real numbers"):
        from_image(image)


def test_a_signal_of_another_size_is_no_image() -> None:
    with pytest.raises(InputError, match="12 nodes"):
        to_image(ImageDomain(3, 4), torch.zeros(2, 11))
    with pytest.raises(InputError, match="48 nodes"):
        to_healpix_map(HEALPixDomain(2), torch.zeros(2, 11))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_healpy_maps_go_there_and_back(dtype: type) -> None:
    values: np.ndarray = np.arange(48, dtype=dtype)
    values[[3, 20]] = healpy.UNSEEN
    domain, signal = from_healpix_map(values)
    assert domain == HEALPixDomain(2, nest=False)
    assert signal.shape == (1, 48)
    assert signal.isnan().nonzero()[:, 1].tolist() == [3, 20]
    again = to_healpix_map(domain, signal)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again[0], values)
    masked, _ = from_healpix_map([healpy.ma(values), values], nest=True)
    assert masked == HEALPixDomain(2)
    assert from_healpix_map(healpy.ma(values))[1].isnan().sum() == 2


def test_maps_with_swapped_bytes_or_of_integers_are_read() -> None:
    expected = torch.arange(48.0)[None]
    assert torch.equal(from_healpix_map(np.arange(48, dtype=">f4"))[1], expected)
    assert torch.equal(from_healpix_map(np.arange(48))[1], expected.double())


def test_a_part_of_the_sky_is_unseen_elsewhere() -> None:
    domain = HEALPixDomain(2, True, [7, 3])
    full = to_healpix_map(domain, torch.tensor([1.0, math.nan]))
    assert full[7] == 1
    assert (np.delete(full, 7) == np.float32(healpy.UNSEEN)).all()


@pytest.mark.parametrize("count", [47, 0, 12 * 9])
def test_other_numbers_of_pixels_are_refused(count: int) -> None:
    with pytest.raises(GridError, match="power of two"):
        from_healpix_map(np.zeros(count))


@pytest.mark.parametrize("nest", [True, False])
def test_fits_files_keep_their_order(tmp_path: Path, nest: bool) -> None:
    maps = numpy_seeded(0).random((2, 48))
    maps[1, 5] = healpy.UNSEEN
    path = tmp_path / "map.fits"
    healpy.write_map(path, maps, nest=nest, dtype=np.float64)
    domain, signal = read_healpix(path)
    assert domain == HEALPixDomain(2, nest)
    assert signal[1, 5].isnan()
    np.testing.assert_array_equal(to_healpix_map(domain, signal), maps)
    assert torch.equal(read_healpix(path, 0)[1], signal[:1])


@pytest.mark.parametrize("nest", [True, False])
def test_fits_files_that_list_their_pixels_are_a_part_of_the_sky(
    tmp_path: Path, nest: bool
) -> None:
    values = np.full(768, healpy.UNSEEN)  # healpy cannot write the numbers below 128 alone
    values[[5, 9, 700]] = [1, 2, 3]
    path = tmp_path / "part.fits"
    healpy.write_map(path, values, nest=nest, partial=True, dtype=np.float64)
    domain, signal = read_healpix(path)
    assert domain == HEALPixDomain(8, nest, [5, 9, 700])
    assert signal.tolist() == [[1, 2, 3]]


def test_what_is_no_fits_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.fits").write_text("no map")
    for name in ("text.fits", "none.fits"):
        with pytest.raises(InputError, match="cannot be read as a HEALPix map"):
            read_healpix(tmp_path / name)


@pytest.mark.parametrize(
    "domain", [HEALPixDomain(2), HEALPixDomain(2, False), HEALPixDomain(4, True, [9, 2, 100])]
)
def test_labels_survive_a_file(tmp_path: Path, domain: HEALPixDomain) -> None:
    values = numpy_seeded(0).random((3, domain.num_nodes))
    array = label_healpix(domain, values, ("time", "cells"), {"time": [0, 1, 2]}, name="t")
    array.to_netcdf(tmp_path / "t.nc")
    with xr.open_dataset(tmp_path / "t.nc", decode_coords="all") as dataset:
        again = dataset["t"].load()
    for labelled in (array, again, again.drop_vars("crs")):
        assert healpix_dim(labelled) == "cells"
        assert healpix_domain_of(labelled) == domain
    assert again.crs.attrs["refinement_level"] == domain.level
    # xdggs takes these alone, and refuses any other
    assert set(again.cell_ids.attrs) == {"grid_name", "level", "indexing_scheme"}


def test_the_ways_to_say_scheme_and_resolution() -> None:
    bare = xr.DataArray(np.zeros((2, 48)), dims=("time", "cell"))
    mapping = {"grid_mapping_name": "healpix", "healpix_nside": 2, "healpix_order": "nest"}
    assert healpix_domain_of(bare.assign_coords(crs=((), 0, mapping))) == HEALPixDomain(2)
    scheme = {"grid_mapping_name": "healpix", "indexing_scheme": "ring"}
    assert healpix_domain_of(bare.assign_coords(crs=((), 0, scheme))) == HEALPixDomain(2, False)
    ids = {"grid_name": "healpix", "nside": 4, "indexing_scheme": "nested"}
    synonyms = {"grid_name": "healpix", "depth": 1, "nest": 0}
    zones = bare.assign_coords(zone=("cell", np.arange(48), synonyms))
    assert healpix_domain_of(zones) == HEALPixDomain(2, False)
    cf = {"standard_name": "healpix_index"}
    mapped = bare.assign_coords(crs=((), 0, scheme), zone=("cell", np.arange(48)[::-1], cf))
    assert healpix_domain_of(mapped) == HEALPixDomain(2, False, np.arange(48)[::-1])
    part = bare.isel(cell=slice(3)).assign_coords(zone=("cell", [4, 5, 190], ids))
    assert healpix_domain_of(part) == HEALPixDomain(4, True, [4, 5, 190])


@pytest.mark.parametrize(
    ("size", "coords", "message"),
    [
        (48, {}, "indexing scheme is 'unknown'"),
        (48, {"crs": {"indexing_scheme": "nuniq"}}, "'nuniq'"),
        (40, {"crs": {"indexing_scheme": "ring"}}, "no attribute level"),
        (40, {"crs": {"indexing_scheme": "ring", "refinement_level": 1}}, "nside 2 has 48"),
    ],
)
def test_unclear_healpix_labels_are_refused(size: int, coords: dict, message: str) -> None:
    array = xr.DataArray(np.zeros(size), dims="cell")
    for name, attributes in coords.items():
        marks = {"grid_mapping_name": "healpix", **attributes}
        array = array.assign_coords({name: ((), 0, marks)})
    with pytest.raises(GridError, match=message):
        healpix_domain_of(array)
    with pytest.raises(GridError, match="no HEALPix dimension"):
        healpix_dim(array.rename(cell="x"))


def ugrid(lonlat: bool, start: int = 0, transposed: bool = False) -> xr.Dataset:
    """Return a square and a triangle beside it, and a node in no face."""
    names = ("longitude", "latitude") if lonlat else ("x", "y")
    attributes = [
        {"standard_name": name, "units": unit} if lonlat else {"units": "m"}
        for name, unit in zip(names, ("degrees_east", "degrees_north"), strict=True)
    ]
    x, y = [0.0, 1, 1, 0, 2, 50], [0.0, 0, 1, 1, 0.5, 50]
    faces = np.array([[0, 1, 2, 3], [1, 4, 2, -9]]) + start
    faces[1, 3] = -999
    table = ("face", "corner") if not transposed else ("corner", "face")
    return xr.Dataset(
        {
            "mesh": (
                (),
                0,
                {
                    "cf_role": "mesh_topology",
                    "topology_dimension": 2,
                    "face_dimension": "face",
                    "node_coordinates": "node_x node_y",
                    "face_node_connectivity": "faces",
                },
            ),
            "node_x": ("node", x, attributes[0]),
            "node_y": ("node", y, attributes[1]),
            "faces": (
                table,
                faces.T if transposed else faces,
                {"start_index": start, "_FillValue": -999},
            ),
            "depth": ("node", np.arange(6.0)),
        }
    )


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("transposed", [True, False])
def test_ugrid_in_the_plane(tmp_path: Path, start: int, transposed: bool) -> None:
    ugrid(False, start, transposed).to_netcdf(tmp_path / "mesh.nc")
    with xr.open_dataset(tmp_path / "mesh.nc") as dataset:
        mesh = from_ugrid(dataset)
        depth = dataset["depth"].isel({str(mesh.dim): mesh.vertex}).values
    assert mesh.domain.areas.sum().item() == pytest.approx(1.5)
    assert mesh.domain.faces.tolist() == [[0, 1, 2], [1, 4, 2], [0, 2, 3]]
    assert mesh.domain.radius_km == 1e-3
    assert depth.tolist() == [0, 1, 2, 3, 4]


def test_ugrid_on_the_sphere() -> None:
    mesh = from_ugrid(ugrid(True))
    torch.testing.assert_close(mesh.domain.positions.norm(dim=1), torch.ones(5).double())
    assert mesh.domain.areas.sum().item() == pytest.approx(1.5 * math.radians(1) ** 2, rel=1e-3)
    assert mesh.domain.radius_km == 6371.0


def test_a_band_round_the_globe_is_closed_where_longitude_360_is_0() -> None:
    lon, lat = np.tile([0.0, 90, 180, 270, 360], 2), np.repeat([-10.0, 10], 5)
    i = np.arange(4)
    dataset = ugrid(True).drop_vars(["node_x", "node_y", "faces", "depth"])
    dataset["node_x"] = ("node", lon, {"units": "degrees_east"})
    dataset["node_y"] = ("node", lat, {"units": "degrees_north"})
    dataset["faces"] = (("face", "corner"), np.stack([i, i + 1, i + 6, i + 5], 1))
    mesh = from_ugrid(dataset)
    assert mesh.vertex.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert len(mesh.domain.faces) == 8


@pytest.mark.parametrize("start", [0, 1])
def test_faces_of_ugrid_are_joined_where_they_share_a_side(start: int) -> None:
    domain = from_ugrid_faces(ugrid(False, start))
    assert domain.areas.tolist() == [1.0, 0.5]
    np.testing.assert_allclose(domain.positions, [[0.5, 0.5], [4 / 3, 0.5]])
    assert domain.edge_index.tolist() == [[0, 1], [1, 0]]
    # a side of length 1 between centres at the distance 5/6
    np.testing.assert_allclose(domain.stiffness.toarray(), [[1.2, -1.2], [-1.2, 1.2]])
    assert domain.radius_km == 1e-3


def test_faces_round_the_globe_are_a_ring() -> None:
    lon, lat = np.tile([0.0, 90, 180, 270, 360], 2), np.repeat([-10.0, 10], 5)
    i = np.arange(4)
    dataset = ugrid(True).drop_vars(["node_x", "node_y", "faces", "depth"])
    dataset["node_x"] = ("node", lon, {"units": "degrees_east"})
    dataset["node_y"] = ("node", lat, {"units": "degrees_north"})
    dataset["faces"] = (("face", "corner"), np.stack([i, i + 1, i + 6, i + 5], 1))
    domain = from_ugrid_faces(dataset)
    degree = np.bincount(domain.edge_index[0].numpy())
    assert degree.tolist() == [2, 2, 2, 2]
    np.testing.assert_allclose(domain.edge_length, np.pi / 2)
    centres = np.deg2rad([45.0, 135, 225, 315])
    expected = np.stack([np.cos(centres), np.sin(centres), 0 * centres], 1)
    np.testing.assert_allclose(domain.positions, expected, atol=1e-12)
    conductance = np.deg2rad(20) / (np.pi / 2)
    np.testing.assert_allclose(domain.stiffness.diagonal(), 2 * conductance)
    flat = dataset.assign(faces=(("face", "corner"), np.zeros((4, 4), dtype=int)))
    with pytest.raises(GridError, match="4 faces have no area"):
        from_ugrid_faces(flat)


def test_squares_of_a_plane_have_the_five_point_stencil() -> None:
    y, x = np.meshgrid(np.arange(5.0), np.arange(6.0), indexing="ij")
    number = np.arange(30).reshape(5, 6)
    corners = [number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]]
    dataset = ugrid(False).drop_vars(["node_x", "node_y", "faces", "depth"])
    dataset["node_x"] = ("node", x.ravel())
    dataset["node_y"] = ("node", y.ravel())
    dataset["faces"] = (("face", "corner"), np.stack([c.ravel() for c in corners], 1))
    domain = from_ugrid_faces(dataset)
    difference = abs(domain.stiffness - ImageDomain(4, 5).stiffness)
    assert difference.max() < 1e-12


def test_broken_ugrid_is_refused() -> None:
    dataset = ugrid(True)
    with pytest.raises(GridError, match="0 meshes"):
        from_ugrid(dataset.drop_vars("mesh"))
    with pytest.raises(GridError, match="'node_y'"):
        from_ugrid(dataset.drop_vars("node_y"))
    with pytest.raises(GridError, match="face_node_connectivity"):
        from_ugrid(dataset.drop_vars("faces"))


TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def test_tidying_merges_and_drops() -> None:
    vertices = np.concatenate([TETRAHEDRON, TETRAHEDRON[:1], [[9, 9, 9]]])
    faces = np.concatenate([FACES[:3], [[4, 4, 1], [0, 4, 2]], FACES[3:]])
    faces[2, 0] = 4  # the same place as 0
    mesh = tidy_mesh(vertices, faces)
    np.testing.assert_array_equal(mesh.domain.vertices, TETRAHEDRON)
    np.testing.assert_array_equal(mesh.domain.faces, FACES)
    assert mesh.vertex.tolist() == [0, 1, 2, 3]
    assert mesh.domain.is_closed
    with pytest.raises(GridError, match="no face has an area"):
        tidy_mesh(TETRAHEDRON, [[0, 0, 1]])
    with pytest.raises(GridError, match="count from 0"):
        tidy_mesh(TETRAHEDRON, [[0, 1, 4]])


@pytest.mark.parametrize("suffix", ["ply", "obj", "stl", "off"])
def test_mesh_files(tmp_path: Path, suffix: str) -> None:
    trimesh = pytest.importorskip("trimesh")
    path = tmp_path / f"tetrahedron.{suffix}"
    trimesh.Trimesh(TETRAHEDRON, FACES, process=False).export(path)
    domain = read_mesh(path).domain
    assert domain.is_closed
    assert domain.areas.sum().item() == pytest.approx(1.5 + math.sqrt(3) / 2)
    assert sorted(domain.vertices.tolist()) == sorted(TETRAHEDRON.tolist())


def test_what_is_no_mesh_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trimesh")
    (tmp_path / "text.ply").write_text("no mesh")
    for name in ("text.ply", "none.obj"):
        with pytest.raises(InputError, match="cannot be read as a mesh"):
            read_mesh(tmp_path / name)
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(InputError, match=r"apsgeo\[mesh\]"):
        read_mesh(tmp_path / "text.ply")
