"""Model folders and netCDF files: what is saved comes back, and nothing is ever half-written."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import dask.array
import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr

import apsgeo.atomic
import apsgeo.io
from apsgeo.errors import InputError, ModelError, OutputExistsError
from apsgeo.io import load_folder, read_field, read_kind, save_folder, write_netcdf
from tests.cases import seeded

CONFIG = {"units": "degC", "levels": [0.1, 2.0], "card": {"years": {"1990": 1}, "none": None}}


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = seeded(seed)
    table = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    return {
        "table": table,
        "view": table.T[::2],
        "tied": table,
        "index": torch.arange(3),
        "valid": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "model", "posterior", CONFIG, tensors())


def assert_holds(path: Path, seed: int) -> None:
    _, loaded = load_folder(path, "posterior")
    expected = tensors(seed)
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)


def field(offset: float = 0.0) -> xr.DataArray:
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3) + np.float32(offset)
    values[0, 0, 0] = np.nan
    return xr.DataArray(
        values,
        dims=("time", "lat", "lon"),
        coords={
            "time": np.arange("2000-01", "2000-05", dtype="datetime64[M]").astype("datetime64[ns]"),
            "lat": [10.0, -10.0],
            "lon": [0.0, 120.0, 240.0],
        },
        name="air",
        attrs={"units": "degC"},
    )


# --- model folders


def test_a_saved_model_comes_back_bit_for_bit(model: Path) -> None:
    config, _ = load_folder(model)
    assert config == CONFIG
    assert_holds(model, seed=0)
    assert read_kind(model) == "posterior"
    assert sorted(file.name for file in model.iterdir()) == ["config.json", "weights.safetensors"]


def test_loaded_tensors_are_aligned_as_others_are(tmp_path: Path) -> None:
    """Or products of them would be rounded otherwise than before they were saved."""
    odd = {f"{count}": torch.ones(count) for count in range(1, 9)}
    _, found = load_folder(save_folder(tmp_path / "model", "prior", {}, odd))
    assert {tensor.data_ptr() % 64 for tensor in found.values()} == {0}


def test_saving_twice_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    again = save_folder(tmp_path / "again", "posterior", CONFIG, tensors())
    for file in model.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes()


def test_keys_that_json_turns_into_strings_do_not_break_the_checksum(tmp_path: Path) -> None:
    path = save_folder(tmp_path / "model", "prior", {"by_year": {10: "a", 2: "b"}}, {})
    assert load_folder(path) == ({"by_year": {"10": "a", "2": "b"}}, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_a_configuration_that_is_not_json_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(InputError, match="JSON"):
        save_folder(tmp_path / "model", "prior", {"value": value}, {})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_model_is_replaced_only_on_demand(model: Path) -> None:
    with pytest.raises(OutputExistsError, match="exists"):
        save_folder(model, "posterior", CONFIG, tensors(1))
    assert_holds(model, seed=0)
    save_folder(model, "posterior", CONFIG, tensors(1), overwrite=True)
    assert_holds(model, seed=1)
    assert [entry.name for entry in model.parent.iterdir()] == ["model"]


def test_a_folder_that_is_not_a_model_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(OutputExistsError, match="not what would replace it"):
        save_folder(tmp_path / "thesis", "posterior", CONFIG, tensors(), overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_a_folder_of_another_kind_is_refused(model: Path) -> None:
    with pytest.raises(ModelError, match="holds a posterior, where a prior is expected"):
        load_folder(model, "prior")


def test_a_card_beside_the_weights_is_welcome(model: Path) -> None:
    (model / "README.md").write_text("# card")
    assert_holds(model, seed=0)


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    header = json.loads(file.read_text())
    change(header)
    file.write_text(json.dumps(header))


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: (m / "weights.safetensors").unlink(), "cannot be read"),
        (lambda m: (m / "config.json").unlink(), "no config.json"),
        (lambda m: flip_last_byte(m / "weights.safetensors"), "truncated or altered"),
        (lambda m: rewrite(m / "config.json", lambda h: h["config"].update(units="K")), "altered"),
        (lambda m: rewrite(m / "config.json", lambda h: h.pop("weights")), "altered"),
        (lambda m: rewrite(m / "config.json", lambda h: h.update(schema_version=2)), "upgrade"),
        (lambda m: rewrite(m / "config.json", lambda h: h.pop("schema_version")), "no schema"),
        (lambda m: (m / "config.json").write_text("[1]"), "no schema"),
        (lambda m: (m / "config.json").write_bytes(b"\xff\xfe\x00"), "not JSON"),
        (lambda m: (m / "weights.safetensors").write_bytes(pickle.dumps({})), "altered"),
    ],
)
def test_a_damaged_folder_is_refused(
    model: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(model)
    with pytest.raises(ModelError, match=message):
        load_folder(model)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_a_file_cut_anywhere_is_refused(model: Path, name: str) -> None:
    content = (model / name).read_bytes()
    for length in (0, 1, 8, len(content) // 2, len(content) - 2):
        (model / name).write_bytes(content[:length])
        with pytest.raises(ModelError):
            load_folder(model)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a folder"):
        load_folder(tmp_path / "nowhere")


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["weights.pt", "extra.pkl", "model.bin", "optimizer", ".hidden"])
def test_a_folder_that_holds_a_pickle_is_refused_unopened(
    model: Path, tmp_path: Path, name: str
) -> None:
    (model / name).write_bytes(pickle.dumps(Payload(tmp_path / "opened")))
    with pytest.raises(ModelError, match=f"{name}.*pickle"):
        load_folder(model)
    assert not (tmp_path / "opened").exists()


# --- crashes


class Crash(BaseException):
    pass


def crash_at(step: int, write: Callable[[], object]) -> bool:
    """Crash at the given line of the writing code; False if it was done before."""
    watched = {apsgeo.io.__file__, apsgeo.atomic.__file__}
    lines = count()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in watched:
            return None
        if event == "line" and next(lines) == step:
            raise Crash
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        write()
    except Crash:
        return True
    finally:
        sys.settrace(previous)
    return False


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_crash_at_any_line_leaves_the_old_model_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(apsgeo.atomic, "_exchange", lambda first, second: False)
    for step in count():
        model = save_folder(tmp_path / str(step) / "model", "posterior", CONFIG, tensors(0))
        save = partial(save_folder, model, "posterior", CONFIG, tensors(1), overwrite=True)
        crashed = crash_at(step, save)
        _, loaded = load_folder(model)
        assert_holds(model, seed=int(not torch.equal(loaded["table"], tensors(0)["table"])))
        if not crashed:
            break
    assert_holds(model, seed=1)
    assert step > 50


def test_a_crash_at_any_line_leaves_no_model_or_a_whole_one(tmp_path: Path) -> None:
    for step in count():
        path = tmp_path / str(step) / "model"
        crashed = crash_at(step, partial(save_folder, path, "posterior", CONFIG, tensors(0)))
        if path.exists():
            assert_holds(path, seed=0)
        if not crashed:
            break
    assert path.exists()


def test_a_crash_at_any_line_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    for step in count():
        file = write_netcdf(field(0.0), tmp_path / str(step) / "air.nc")
        crashed = crash_at(step, partial(write_netcdf, field(1.0), file, overwrite=True))
        with xr.open_dataarray(file) as found:
            expected = field(float(found[1, 0, 0] - field()[1, 0, 0]))
            xr.testing.assert_identical(found.load(), expected)
        if not crashed:
            break
    xr.testing.assert_identical(expected, field(1.0))
    assert step > 15


def test_a_failing_block_leaves_nothing(tmp_path: Path) -> None:
    def fail_late(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info and block_info[0]["chunk-location"][0] == 3:
            raise RuntimeError("the third block fails")
        return block

    lazy = field().chunk(time=1)
    lazy = lazy.copy(data=lazy.data.map_blocks(fail_late, dtype=np.float32))
    with pytest.raises(RuntimeError, match="third block"):
        write_netcdf(lazy, tmp_path / "air.nc")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_folder(tmp_path / "model", "posterior", CONFIG, tensors())
    assert list(tmp_path.iterdir()) == []


# --- netCDF


def test_a_written_field_comes_back(tmp_path: Path) -> None:
    path = write_netcdf(field(), tmp_path / "new" / "air.nc", encoding={"air": {"zlib": True}})
    found = read_field(path)
    xr.testing.assert_identical(found.load(), field())
    assert found.dtype == np.float32
    assert found.encoding["zlib"]


def test_lazy_data_gives_the_same_bytes_every_time(tmp_path: Path) -> None:
    contents = set()
    for run in range(4):
        random_names = dask.array.from_array(field().values, chunks=(1, 1, 3), name=False)
        lazy = field().copy(data=random_names).expand_dims(member=2).chunk(member=1)
        encoding = {"air": {"zlib": True, "chunksizes": (1, 1, 2, 3)}}
        path = write_netcdf(lazy, tmp_path / f"{run}.nc", encoding=encoding)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_an_existing_file_is_replaced_only_on_demand(tmp_path: Path) -> None:
    path = write_netcdf(field(0.0), tmp_path / "air.nc")
    with pytest.raises(OutputExistsError, match="exists"):
        write_netcdf(field(1.0), path)
    xr.testing.assert_identical(read_field(path).load(), field(0.0))
    write_netcdf(field(1.0), path, overwrite=True)
    xr.testing.assert_identical(read_field(path).load(), field(1.0))
    with pytest.raises(OutputExistsError, match="is a folder"):
        write_netcdf(field(), tmp_path, overwrite=True)


def test_who_reads_the_old_file_is_undisturbed_by_its_replacement(tmp_path: Path) -> None:
    path = write_netcdf(field(0.0), tmp_path / "air.nc")
    content = path.read_bytes()
    with path.open("rb") as reader:
        write_netcdf(field(1.0), path, overwrite=True)
        assert reader.read() == content


def test_a_nameless_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no name"):
        write_netcdf(field().rename(None), tmp_path / "air.nc")


def test_the_only_field_is_found_beside_bounds_and_scalars(tmp_path: Path) -> None:
    dataset = field().to_dataset()
    dataset["lat"].attrs["bounds"] = "lat_bnds"
    dataset["lat_bnds"] = (("lat", "nv"), [[20.0, 0.0], [0.0, -20.0]])
    dataset["crs"] = 0
    path = write_netcdf(dataset, tmp_path / "air.nc")
    assert read_field(path).name == "air"


def test_which_field_must_be_said_where_there_are_several(tmp_path: Path) -> None:
    dataset = xr.Dataset({"air": field(), "rain": field()})
    path = write_netcdf(dataset, tmp_path / "two.nc")
    assert read_field(path, "rain").name == "rain"
    with pytest.raises(InputError, match="holds 2 fields.*air, rain"):
        read_field(path)
    with pytest.raises(InputError, match="no variable 'snow'.*air, rain"):
        read_field(path, "snow")


def test_a_file_that_is_not_netcdf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a file"):
        read_field(tmp_path / "nowhere.nc")
    path = write_netcdf(field(), tmp_path / "air.nc")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be read as netCDF"):
        read_field(path)
    (tmp_path / "text.nc").write_text("time,lat,lon\n")
    with pytest.raises(InputError, match="cannot be read as netCDF"):
        read_field(tmp_path / "text.nc")


def test_a_variable_in_a_group_is_found_by_its_group(tmp_path: Path) -> None:
    file, values = tmp_path / "product.nc", np.arange(6.0).reshape(2, 3)
    with netCDF4.Dataset(file, "w") as root:
        for name, size in (("lat", 2), ("lon", 3)):
            root.createDimension(name, size)
            root.createVariable(name, "f8", (name,))[:] = np.arange(size)
        group = root.createGroup("PRODUCT").createGroup("DETAIL")
        group.createVariable("tas", "f8", ("lat", "lon"))[:] = values
    for found in (
        read_field(file, group="PRODUCT/DETAIL"),
        read_field(file, "tas", "PRODUCT/DETAIL"),
        read_field(file, "/PRODUCT/DETAIL/tas"),
    ):
        np.testing.assert_array_equal(found, values)
        np.testing.assert_array_equal(found.lon, np.arange(3))
    with pytest.raises(InputError, match=r"in groups; name one of PRODUCT, PRODUCT/DETAIL"):
        read_field(file)
    with pytest.raises(InputError, match="no group 'OTHER'; its groups: PRODUCT, PRODUCT/DETAIL"):
        read_field(file, group="OTHER")


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
@pytest.mark.parametrize("unit", ["months", "years"])
def test_times_in_months_and_years_are_read(tmp_path: Path, calendar: str, unit: str) -> None:
    file, count = tmp_path / "months.nc", np.array([0.0, 1.0, 13.0, 14.5])
    with netCDF4.Dataset(file, "w") as root:
        root.createDimension("time", 4)
        root.createDimension("x", 2)
        time = root.createVariable("time", "f8", ("time",))
        time.units, time.calendar = f"{unit} since 2015-12-01", calendar
        time[:] = count / (12 if unit == "years" else 1)
        root.createVariable("tas", "f8", ("time", "x"))[:] = 1.0
    if (unit, calendar) == ("months", "360_day"):  # xarray reads these itself
        expected = ["2015-12-01", "2016-01-01", "2017-01-01", "2017-02-16"]
    else:
        expected = ["2015-12-01", "2016-01-01", "2017-01-01", "2017-02-15"]
        expected[3] = "2017-02-16" if calendar == "360_day" else "2017-02-15"
    found = read_field(file)
    assert [str(each)[:10] for each in found.time.values] == expected
    assert (found.time.dtype.kind == "M") == (calendar == "standard")
    with xr.open_dataset(write_netcdf(found, tmp_path / "out.nc")) as again:
        assert [str(each)[:10] for each in again.time.values] == expected


def test_what_is_named_as_zarr_is_not_written_as_netcdf(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"and no Zarr store; give it the suffix .nc"):
        write_netcdf(xr.DataArray(0.0, name="x"), tmp_path / "out.zarr")


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """Nor a device, which is what a program of the machine may need."""
    pipe = tmp_path / "pipe.nc"
    os.mkfifo(pipe)
    with pytest.raises(OutputExistsError, match="is a device or a pipe"):
        write_netcdf(xr.DataArray(0.0, name="x"), pipe, overwrite=True)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
