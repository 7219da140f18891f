"""The command line: the whole way through on tiny data, and every refusal in one line."""

import hashlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import xarray as xr
from typer.testing import CliRunner

from apsgeo import datasets, demo, distill
from apsgeo.cli import app
from apsgeo.console import Commands
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.errors import InputError
from apsgeo.evaluation import score_ensemble
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.scales import HybridScales, LocalisedScales
from apsgeo.io import read_field, write_netcdf
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior, fit_prior
from apsgeo.protocol import NcepProtocol
from apsgeo.xarray import impute
from tests.cases import numpy_seeded, rounding

COMMANDS = ("fit", "distill", "impute", "evaluate", "demo", "data", "era5", "bench")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return str(result.output)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def field() -> xr.DataArray:
    """Monthly fields with large scales, 1955 to 2012, on 7 x 8 nodes with both poles."""
    time = xr.date_range("1955-01-01", "2012-12-01", freq="MS")
    lat, lon = np.linspace(90, -90, 7), np.arange(0, 360, 45.0)
    rng = numpy_seeded(0)
    waves = np.cos(np.deg2rad(lon)), np.sin(np.deg2rad(lon)), np.ones(8)
    values = sum(
        rng.normal(10, 2, (len(time), 1, 1)) * np.cos(np.deg2rad(lat))[:, None] * wave
        for wave in waves
    )
    noisy = (values + rng.normal(0, 0.5, (len(time), 7, 8))).astype(np.float32)
    coords = {"time": time, "lat": lat, "lon": lon}
    attrs = {"units": "degC", "long_name": "air temperature"}
    return xr.DataArray(noisy, coords=coords, dims=("time", "lat", "lon"), name="air", attrs=attrs)


@pytest.fixture(scope="module")
def prior(field: xr.DataArray) -> FieldPrior:
    history = field.sel(time=slice(None, "2009"))
    return fit_prior(
        history,
        rank=4,
        scales=HybridScales(),
        anchor_scales=LocalisedScales(),
        training=Training(steps=0, progress=False),
    )


def untrained(prior: FieldPrior, base: Any) -> Posterior:
    """A flow before its first step: its members may be no good, but they are members."""
    spec = CouplingSpec(base=base, width=4, depth=1, context=4, patterns=2, coupling_width=4)
    return distill(
        prior,
        Mask(),
        0.25,
        spec=spec,
        training=Training(steps=0, progress=False),
        folds=2,
        rounds=1,
        objective="forward",
    )


@pytest.fixture(scope="module")
def anchored(prior: FieldPrior) -> Posterior:
    return untrained(prior, "anchor")


@pytest.fixture(scope="module")
def saved(anchored: Posterior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return anchored.save(tmp_path_factory.mktemp("models") / "posterior")


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in saved.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def obs(field: xr.DataArray) -> xr.DataArray:
    hidden = numpy_seeded(1).random((5, 7, 8)) < 0.7
    return field[-5:].where(~hidden)


@pytest.fixture
def gappy(obs: xr.DataArray, tmp_path: Path) -> Path:
    return write_netcdf(obs, tmp_path / "gappy.nc")


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example_that_the_command_understands(command: str) -> None:
    text = " ".join(done(command, "--help").split())
    _, example = text.split("Example: apsgeo ")
    name, *arguments = example.split()
    assert name == command
    parsed = _command(command).make_context(name, arguments, resilient_parsing=False)
    assert parsed.params
    assert command in done("--help")


def _command(name: str) -> Any:
    from typer.main import get_command

    return get_command(app).commands[name]  # type: ignore[attr-defined]


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from apsgeo.cli import app;"
        "result = CliRunner().invoke(app, ['impute', '--help']); assert result.exit_code == 0;"
        "print(sorted({'torch', 'scipy', 'matplotlib', 'sklearn', 'dask'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bench_runs_a_suite_of_a_checkout_and_elsewhere_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from benchmarks import __main__ as benchmarks

    given: list[list[str]] = []
    monkeypatch.setattr(benchmarks, "main", given.append)
    done("bench", "climate", "--members", "16", "--device", "cpu")
    assert given == [["climate", "--members", "16", "--device", "cpu"]]

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name, name="benchmarks")

    monkeypatch.setattr("apsgeo.cli.bench.import_module", missing)
    refused("checkout", "bench", "climate")


def test_version() -> None:
    assert done("--version").startswith("apsgeo ")


PYTHON: dict[str, Callable[..., Any]] = {
    "fit": fit_prior,
    "distill": distill,
    "impute": impute,
    "evaluate": score_ensemble,
}


@pytest.mark.parametrize("command", PYTHON)
def test_defaults_are_those_of_python(command: str) -> None:
    """Options that have the name of an argument have its default, and so have settings."""
    arguments = inspect.signature(PYTHON[command]).parameters
    defaults = {name: each.default for name, each in arguments.items()}
    defaults |= vars(DenoiserSpec()) if command == "fit" else vars(Training())
    defaults |= {"steps": {"fit": 1500, "distill": 2000}.get(command), "base": CouplingSpec().base}
    defaults |= {"density": (Mask().least, Mask().most)}
    options = {
        each.name: each for each in _command(command).params if each.param_type_name == "option"
    }
    compared = set(options) & set(defaults)
    assert compared >= {"fit": {"rank", "seed", "skip"}, "impute": {"members"}}.get(command, set())
    for name in compared:
        if not options[name].required:
            assert options[name].default == defaults[name], name


@pytest.mark.parametrize(
    ("message", "shell", "said"),
    [
        ("use them; leave them out by quality_control='reject'", None, "--quality-control reject"),
        ("members=0 given; expected more", None, "--members 0 given; expected more"),
        ("noise_std must be above 0", None, "--noise-std must be above 0"),
        ("no gap; use obs.where(seen)", "cdo x", "no gap; in the shell: cdo x"),
        (
            "'a' is (time: 3), not b. Use .sel(a=1) first. It is c.",
            "ncks",
            "not b. It is c; in the",
        ),
    ],
)
def test_errors_advise_for_the_shell(message: str, shell: str | None, said: str) -> None:
    """What is to be written in Python is left out where the shell has its own."""

    class Verbs(Commands):
        def _options(self, ctx: Any) -> dict[str, str]:
            return {
                "members": "--members",
                "noise_std": "--noise-std",
                "quality_control": "--quality-control",
            }

    verbs = typer.Typer(cls=Verbs)

    @verbs.callback()
    def _() -> None:
        """Do nothing."""

    @verbs.command()
    def fail() -> None:
        raise InputError(message, shell=shell)

    result = CliRunner().invoke(verbs, ["fail"])
    assert result.exit_code == 2
    assert said in result.stderr


# The whole way


def test_from_history_to_scores(field: xr.DataArray, obs: xr.DataArray, tmp_path: Path) -> None:
    history = write_netcdf(field.sel(time=slice(None, "2009")), tmp_path / "history.nc")
    gappy, truth = (
        write_netcdf(array, tmp_path / name) for array, name in ((obs, "obs.nc"), (field, "t.nc"))
    )
    prior, posterior, filled = (tmp_path / name for name in ("prior", "posterior", "filled.nc"))
    done("fit", history, prior, "--rank", 4, "--steps", 0, "--baseline", 1961, 2000)
    done("distill", prior, posterior, "--history", history, "--noise-std", 0.25, "--steps", 0)
    reverse = ("--measurements", gappy, "--objective", "reverse", "--noise-std", 0.25, "--steps", 1)
    done("distill", prior, tmp_path / "unsupervised", *reverse)
    done("impute", gappy, posterior, filled, "--members", 12)
    assert not read_field(filled).isnull().any()
    table = done("evaluate", truth, filled, "--observed", gappy)
    assert all(word in table for word in ("5 fields", "CRPS [degC]", "spread/skill", "coverage"))


def test_impute_writes_cf_netcdf(
    obs: xr.DataArray, gappy: Path, saved: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "filled.nc"
    done("impute", gappy, saved, output, "--members", 3, "--seed", 5, "--noise-std", 0.5)
    with xr.open_dataset(output) as dataset:
        assert dataset.attrs["Conventions"].startswith("CF-")
        air = dataset["air"]
        assert air.dims == ("member", "time", "lat", "lon")
        assert air.dtype == np.float32
        assert air.encoding["zlib"]
        assert air.encoding["chunksizes"] == (1, 1, 7, 8)
        assert {**air.attrs, **obs.attrs} == air.attrs
        assert (air.attrs["seed"], air.attrs["noise_std"]) == (5, 0.5)
        assert air["member"].attrs["standard_name"] == "realization"
        for name in ("time", "lat", "lon"):
            xr.testing.assert_identical(air[name], obs[name])


@pytest.mark.same_bits
def test_run_twice_the_files_are_the_same_bytes(
    gappy: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")  # the day may change meanwhile
    files = [tmp_path / name for name in ("first.nc", "second.nc", "other.nc")]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        done("impute", gappy, saved, file, "--members", 4, "--seed", seed)
    first, second, other = map(sha256, files)
    assert first == second != other


def test_members_and_months_asked_for_do_not_change_a_member(
    obs: xr.DataArray, anchored: Posterior
) -> None:
    members = obs.aps.impute(anchored, members=16).compute()
    spread = members.std("member")
    for other in (
        obs.aps.impute(anchored, members=3),
        obs[2:3].aps.impute(anchored, members=16),
        obs.chunk(time=2).aps.impute(anchored, members=16),
    ):
        # a flow of some hundred sums and products in float32, and fields of that size
        allowed = rounding(256) * spread + rounding(2, members)
        assert bool((abs(other - members) <= allowed).all())


def test_bounds_that_are_not_written_are_not_named(
    obs: xr.DataArray, saved: Path, tmp_path: Path
) -> None:
    obs = obs.assign_coords(time=obs.time.assign_attrs(bounds="time_bnds"))
    gappy = write_netcdf(obs, tmp_path / "gappy.nc")
    done("impute", gappy, saved, tmp_path / "filled.nc", "--members", 2)
    assert "bounds" not in read_field(tmp_path / "filled.nc").time.attrs


def test_a_month_with_nothing_observed_is_a_warning_in_one_line(
    obs: xr.DataArray, saved: Path, tmp_path: Path
) -> None:
    obs[1] = np.nan
    gappy = write_netcdf(obs, tmp_path / "gappy.nc")
    result = run("impute", gappy, saved, tmp_path / "filled.nc", "--members", 2)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: nothing was observed in 2012-09-01")
    assert result.stderr.count("\n") == 1


# Scores


def test_evaluate_counts_hidden_cells_only_and_aligns_by_label(
    field: xr.DataArray, obs: xr.DataArray, tmp_path: Path
) -> None:
    truth = field[-8:, ::-1]
    error = xr.where(obs.isnull(), 1.0, 100.0)
    members = xr.concat([field[-5:] + error - 0.5, field[-5:] + error + 0.5], dim="member")
    files = {"t.nc": truth, "e.nc": members.rename("air"), "o.nc": obs}
    truth_file, ensemble_file, obs_file = (
        write_netcdf(array, tmp_path / name) for name, array in files.items()
    )
    table = done("evaluate", truth_file, ensemble_file, "--observed", obs_file)
    rows = {
        line.split("│")[1].strip(): line.split("│")[2].strip()
        for line in table.splitlines()
        if "│" in line
    }
    # Two members at distances 1/2 and 3/2: fair CRPS 1 - 1/2, error 1, variance 1/2 * 3/2.
    assert float(rows["CRPS [degC]"]) == pytest.approx(0.5, abs=1e-4)
    assert float(rows["RMSE [degC]"]) == pytest.approx(1.0, abs=1e-4)
    assert float(rows["spread/skill"]) == pytest.approx(np.sqrt(0.75), abs=1e-3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda truth: truth[:-1], "no record for 1 of the ensemble's 5 times, such as 2012-12"),
        (lambda truth: truth.isel(lon=slice(4)), "the truth is on LatLonDomain.*the ensemble on"),
        (lambda truth: truth.assign_attrs(units="m"), "the truth has units 'm', and the ensemble"),
        (lambda truth: truth.drop_vars("time"), "no times to go by"),
    ],
)
def test_evaluate_refuses_what_does_not_fit(
    field: xr.DataArray, tmp_path: Path, change: Callable[..., xr.DataArray], match: str
) -> None:
    ensemble = write_netcdf(field[-5:].expand_dims(member=2), tmp_path / "ensemble.nc")
    truth = write_netcdf(change(field[-9:]), tmp_path / "truth.nc")
    refused(match, "evaluate", truth, ensemble)
    refused("'member' is not among them", "evaluate", ensemble, truth)


# Refusals


def refused(match: str, *arguments: object) -> None:
    """The command fails with one line on stderr."""
    result = run(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert re.match(f"error: .*{match}", result.stderr), result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


BAD_FIELDS: dict[str, tuple[Callable[[xr.DataArray], xr.DataArray], str]] = {
    "no gap": (lambda obs: obs.fillna(0.0), "no NaN, so there is no gap"),
    "infinite": (lambda obs: obs.where(obs.isnull(), np.inf), "infinite values"),
    "other grid": (lambda obs: obs.assign_coords(lon=obs.lon + 1), "and the model on"),
    "other units": (
        lambda obs: obs.assign_attrs(units="K"),
        r"in the shell: cdo setunit,.*-subc,273.15",
    ),
    "repeated": (lambda obs: obs.assign_coords(lat=[90.0] * 2 + [30, 0, -30, -60, -90]), "twice"),
    "unordered": (lambda obs: obs.isel(lat=[1, 0, 2, 3, 4, 5, 6]), "neither ascends nor descends"),
    "repeated time": (lambda obs: obs.isel(time=[0, 0, 1]), "holds 2012-08-01.* 2 times"),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_impute_refuses_bad_fields(
    obs: xr.DataArray, saved: Path, tmp_path: Path, case: str
) -> None:
    change, match = BAD_FIELDS[case]
    gappy = write_netcdf(change(obs), tmp_path / "bad.nc")
    refused(match, "impute", gappy, saved, tmp_path / "out" / "filled.nc")
    assert names(tmp_path) == ["bad.nc"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--members", 0), "--members 0 given"),
        (("--members", -3), "--members -3 given"),
        (("--noise-std", 0), "--noise-std 0"),
        (("--noise-std", -0.5), "--noise-std -0.5"),
        (("--noise-std", "nan"), "--noise-std nan"),
        (("--seed", -1), "--seed -1 given"),
        (("--variable", "nonsense"), "no variable 'nonsense'"),
    ],
)
def test_impute_refuses_bad_options(
    gappy: Path, saved: Path, tmp_path: Path, options: Sequence[object], match: str
) -> None:
    refused(match, "impute", gappy, saved, tmp_path / "filled.nc", *options)
    assert names(tmp_path) == ["gappy.nc"]


def newer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"schema_version": 99}))


def truncated(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def altered(folder: Path) -> None:
    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)


def pickled(folder: Path) -> None:
    (folder / "weights.pkl").write_bytes(b"")


def absent(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (newer, "schema version 99"),
        (truncated, "truncated or altered"),
        (altered, "truncated or altered"),
        (pickled, "weights.pkl"),
        (absent, "neither a model folder nor a shipped model"),
    ],
)
def test_impute_refuses_damaged_models(
    gappy: Path, model: Path, tmp_path: Path, damage: Callable[[Path], None], match: str
) -> None:
    damage(model)
    refused(match, "impute", gappy, model, tmp_path / "filled.nc")
    assert not (tmp_path / "filled.nc").exists()


def test_an_output_that_exists_is_kept_unless_told_otherwise(
    gappy: Path, saved: Path, tmp_path: Path
) -> None:
    output = tmp_path / "filled.nc"
    output.write_text("precious")
    refused("exists; .*--overwrite", "impute", gappy, saved, output, "--members", 2)
    refused("exists", "fit", gappy, output)
    refused("exists", "distill", saved, output, "--noise-std", 0.25)
    assert output.read_text() == "precious"
    done("impute", gappy, saved, output, "--members", 2, "--overwrite")
    assert read_field(output).sizes["member"] == 2


def test_a_prior_is_not_taken_for_a_posterior(
    prior: FieldPrior, gappy: Path, saved: Path, tmp_path: Path
) -> None:
    folder = prior.save(tmp_path / "prior")
    refused("is a prior; .*distill", "impute", gappy, folder, tmp_path / "out.nc")
    refused("is a posterior; .*fit", "distill", saved, tmp_path / "out", "--noise-std", 1)


def test_missing_and_foreign_files_are_refused(gappy: Path, saved: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.nc"
    text.write_text("no netCDF")
    for bad, match in ((tmp_path / "none.nc", "not a file"), (text, "cannot be read as netCDF")):
        refused(match, "impute", bad, saved, tmp_path / "out.nc")
        refused(match, "evaluate", bad, gappy)
        refused(match, "fit", bad, tmp_path / "out")
    assert names(tmp_path) == ["gappy.nc", "text.nc"]


# Data and demo


def test_data_lists_and_refuses() -> None:
    for listing in (done("data"), done("data", "--list")):
        assert [line.split()[0] for line in listing.splitlines()] == datasets.names()
    refused("no data set 'nonsense'", "data", "nonsense")


class SmallProtocol(NcepProtocol):
    """The protocol with fewer EOFs, which is all that a small grid has."""

    def eof_interpolation(self, ranks: Sequence[int] = (), progress: bool = True) -> LowRankPrior:
        return super().eof_interpolation((2, 4), progress)


@pytest.fixture
def small_demo(
    field: xr.DataArray, prior: FieldPrior, anchored: Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = {demo.ANCHORED: anchored, demo.PAPER: untrained(prior, "white")}
    monkeypatch.setattr(demo, "_shipped", shipped.__getitem__)
    monkeypatch.setattr(demo, "NcepProtocol", SmallProtocol)
    monkeypatch.setattr(datasets, "load", lambda name: {"ncep-air": field}[name])


@pytest.mark.same_bits
@pytest.mark.usefixtures("small_demo")
def test_the_demo_leaves_what_it_promises(field: xr.DataArray, tmp_path: Path) -> None:
    options = ("--output", tmp_path / "demo", "--every", 12, "--members", 6, "--density", 0.3)
    screen = done("demo", *options)
    assert names(tmp_path / "demo") == ["ensemble.nc", "maps.png", "scores.csv"]
    ensemble = read_field(tmp_path / "demo" / "ensemble.nc")
    assert dict(ensemble.sizes) == {"member": 6, "time": 3, "lat": 7, "lon": 8}
    assert ensemble.attrs["units"] == "degC"
    lines = (tmp_path / "demo" / "scores.csv").read_text().splitlines()
    methods = [line.strip('"').split(",0.3")[0].strip('"') for line in lines[1:]]
    assert methods == [
        "climatology",
        "inverse distance",
        "DINEOF",
        "EOF interpolation",
        "kriging",
        "hybrid Gaussian",
        "localised Gaussian",
        "local Gaussian (base of APS)",
        "APS, paper's form",
        "APS, anchored",
    ]
    assert all(word in screen for method in methods for word in method.split())  # names may wrap
    assert (tmp_path / "demo" / "maps.png").read_bytes().startswith(b"\x89PNG")
    before = sha256(tmp_path / "demo" / "ensemble.nc")
    done("demo", *options)
    assert sha256(tmp_path / "demo" / "ensemble.nc") == before


@pytest.mark.usefixtures("small_demo")
def test_the_demo_s_file_has_the_demo_s_score(field: xr.DataArray, tmp_path: Path) -> None:
    board = demo.run_demo(tmp_path, every=12, members=6, density=0.3, seed=1)
    protocol = SmallProtocol(field, seed=1)
    months = protocol.test[::12]
    observed = protocol.labelled(protocol.observe(months, 0.3), months)
    truth_file = write_netcdf(field, tmp_path / "truth.nc")
    observed_file = write_netcdf(observed, tmp_path / "observed.nc")
    table = done("evaluate", truth_file, tmp_path / "ensemble.nc", "--observed", observed_file)
    crps = float(table.split("CRPS [degC]")[1].split("│")[1])
    assert crps == pytest.approx(board.rows[-1]["crps"], rel=1e-3)


def test_the_demo_names_the_extras_that_it_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    refused(r"needs sklearn, matplotlib.*pip install 'apsgeo\[bench,plot\]'", "demo")
