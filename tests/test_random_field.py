"""Gaps filled without a model: by a random field that is fitted to the observations alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import apsgeo
from apsgeo.cli import app
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.random_field.fit import FieldSpec
from apsgeo.gaussian.random_field.prior import RandomFieldPrior
from apsgeo.gaussian.random_field.terms import Terms
from apsgeo.random_field.fit import fit_random_field, random_field_posterior
from tests.cases import alike, numpy_seeded

ROWS, COLUMNS = 9, 12
ILL = 200_000  # roundings: nearly exact observations of a smooth field leave few digits
QUICK = FieldSpec(neighbours=12, steps=25, batch=100)


def smooth(seed: int = 0) -> np.ndarray:
    """Draw a smooth field on the pixels: a few long waves on a slope."""
    row, column = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    rng = numpy_seeded(seed)
    waves = [
        rng.normal() * np.cos(2 * np.pi * (a * row / 14 + b * column / 18) + rng.uniform(0, 6))
        for a, b in ((1, 0), (0, 1), (1, 1))
    ]
    return 15 + 0.2 * column + sum(waves)


def gaps(seed: int = 0) -> np.ndarray:
    """Draw where values are missing: a region, and a tenth of the others."""
    hidden = numpy_seeded(seed).random((ROWS, COLUMNS)) < 0.1
    hidden[3:6, 4:8] = True
    return hidden


def pixels(values: np.ndarray, hidden: np.ndarray, **labels: Any) -> xr.DataArray:
    labels = {"dims": ("y", "x"), "name": "sst", "attrs": {"units": "K"}} | labels
    return xr.DataArray(np.where(hidden, np.nan, values).astype("float32"), **labels)


def test_a_gappy_field_is_filled_better_than_by_its_mean() -> None:
    truth, hidden = smooth(), gaps()
    obs = pixels(truth, hidden)
    filled = apsgeo.impute(obs, members=16).compute()
    assert filled.dims == ("member", "y", "x")
    assert filled.attrs["units"] == "K"
    assert "fitted to these observations alone" in filled.attrs["model"]
    mean, error = filled.mean("member").values, float(np.nanstd(obs))
    seen = np.broadcast_to(~hidden, filled.shape)
    kept = np.broadcast_to(truth, filled.shape)[seen]
    np.testing.assert_allclose(filled.values[seen], kept, rtol=0, atol=0.3 * error)
    assert np.sqrt(np.mean((mean - truth)[hidden] ** 2)) < 0.6 * error


def test_members_are_spread_as_they_err() -> None:
    domain = apsgeo.ImageDomain(ROWS, COLUMNS)
    terms = Terms.start(1, 2, 1, 20.0, 1.0)
    flat = torch.zeros(domain.num_nodes, 1)
    matern = RandomFieldPrior(domain, terms, torch.ones(domain.num_nodes, 1), flat)
    ratios = []
    for seed in range(3):
        white = numpy_seeded(seed).standard_normal((domain.num_nodes, 1))
        truth, hidden = matern.draw(white).reshape(ROWS, COLUMNS), gaps(seed)
        prior = fit_random_field(pixels(truth, hidden), spec=QUICK, progress=False)
        y = torch.from_numpy(np.where(hidden, np.nan, truth)).float().reshape(1, 1, -1)
        members = (
            random_field_posterior(prior)(y).members(32, 0)[:, 0, 0].numpy()[:, hidden.ravel()]
        )
        error = members.mean(0) - truth[hidden]
        ratios.append(members.var(0, ddof=1).mean() / np.mean(error**2))
    # some ten independent errors in three fields: their mean square is known to a factor of two
    assert 1 / 4 < np.exp(np.mean(np.log(ratios))) < 4


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_a_constant_or_linear_field_is_itself(slope: float) -> None:
    truth = 3.0 + slope * np.arange(COLUMNS) + np.zeros((ROWS, 1))
    filled = pixels(truth, gaps()).aps.impute(members=4).values
    np.testing.assert_allclose(filled, truth[None].repeat(4, 0), atol=2e-4 * truth.max())


def test_records_share_parameters_and_have_gaps_of_their_own() -> None:
    both = xr.concat([pixels(smooth(1), gaps(1)), pixels(smooth(2), gaps(2))], "sample")
    prior = apsgeo.fit_prior(both, progress=False)
    assert isinstance(prior, FieldPrior)
    assert prior.normals.seasons == 1
    posterior = random_field_posterior(prior)
    together = apsgeo.impute(both, posterior, members=3).values
    for place in (0, 1):
        alone = both.isel(sample=[place]).assign_coords(sample=[place])
        alike(apsgeo.impute(alone, posterior, members=3).values[:, 0], together[:, place], ILL)


def test_a_prior_comes_back_from_its_folder(tmp_path: Path) -> None:
    obs = pixels(smooth(), gaps())
    prior = fit_random_field(obs, spec=QUICK, progress=False)
    loaded = FieldPrior.load(prior.save(tmp_path / "prior"))
    assert repr(loaded.anchor) == repr(prior.anchor)
    found, expected = (
        apsgeo.impute(obs, random_field_posterior(each), members=2).values
        for each in (loaded, prior)
    )
    alike(found, expected, ILL)


def test_variables_and_channels_are_filled_one_by_one() -> None:
    first, second = pixels(smooth(1), gaps(1))[2:6], pixels(1e3 * smooth(2), gaps(2))[2:6]
    dataset = apsgeo.impute(xr.Dataset({"a": first, "b": second}), members=2)
    bands = apsgeo.impute(xr.concat([first, second], "band"), members=2)
    assert set(dataset) == {"a", "b"}
    assert bands.dims == ("member", "band", "y", "x")
    assert not dataset.isnull().to_array().any()
    alike(bands.isel(band=1).values, dataset["b"].values, ILL)


def _places() -> dict[str, xr.DataArray]:
    rng = numpy_seeded(0)
    lat, lon = np.linspace(50, 40, ROWS), np.linspace(-10, 5, COLUMNS)
    region = pixels(smooth(), gaps(), dims=("lat", "lon"), coords={"lat": lat, "lon": lon})
    globe = {"lat": np.linspace(80, -80, ROWS), "lon": np.arange(0, 360, 360 / COLUMNS)}
    whole = pixels(smooth(), gaps(), dims=("lat", "lon"), coords=globe)
    where = {"lat": ("station", rng.uniform(40, 50, 60)), "lon": ("station", rng.uniform(0, 9, 60))}
    values = np.sin(where["lat"][1]) + np.where(rng.random(60) < 0.3, np.nan, 0.0)
    stations = xr.DataArray(values.astype("float32"), dims="station", coords=where, name="t")
    domain = apsgeo.HEALPixDomain(2)
    sphere = domain.positions.numpy()[:, 2] + np.where(rng.random(48) < 0.3, np.nan, 0.0)
    cells = apsgeo.label_healpix(domain, sphere, dims=("cells",), name="t")
    return {"region": region, "globe": whole, "stations": stations, "HEALPix": cells}


@pytest.mark.parametrize("name", ["region", "globe", "stations", "HEALPix"])
def test_gaps_are_filled_on_every_domain(name: str) -> None:
    obs = _places()[name]
    prior = fit_random_field(obs, spec=QUICK, progress=False)
    filled = apsgeo.impute(obs, random_field_posterior(prior), members=3).values
    assert np.isfinite(filled).all()
    spread = float(obs.std())
    seen = obs.notnull().values
    np.testing.assert_allclose(filled[0][seen], obs.values[seen], atol=0.1 * spread)


def test_the_mean_follows_static_fields() -> None:
    rng = numpy_seeded(4)
    height = xr.DataArray(rng.random((ROWS, COLUMNS)), dims=("y", "x"), name="height")
    truth = 20 - 6 * height.values
    prior = fit_random_field(pixels(truth, gaps()), static=height, spec=QUICK, progress=False)
    np.testing.assert_allclose(prior.normals.mean[0, 0].numpy(), truth.ravel(), atol=1e-4)


def test_noise_is_smoothed_away() -> None:
    truth, noisy = smooth(), smooth() + 0.5 * numpy_seeded(5).standard_normal((ROWS, COLUMNS))
    hidden = gaps()
    filled = apsgeo.impute(pixels(noisy, hidden), members=16, noise_std=0.5).mean("member").values
    assert np.mean((filled - truth)[~hidden] ** 2) < 0.8 * np.mean((noisy - truth)[~hidden] ** 2)


def test_the_command_fills_a_file_without_a_model(tmp_path: Path) -> None:
    obs, out = tmp_path / "gappy.nc", tmp_path / "filled.nc"
    pixels(smooth(), gaps()).to_netcdf(obs)
    result = CliRunner().invoke(app, ["impute", str(obs), str(out), "--members", "3"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "no model given" in result.output
    with xr.open_dataset(out) as dataset:
        assert dataset["sst"].sizes["member"] == 3
        assert not dataset["sst"].isnull().any()
    result = CliRunner().invoke(app, ["impute", str(obs), "a", "b", "c"])
    assert result.exit_code != 0


@pytest.mark.parametrize(
    ("seen", "message"), [(0, "0 observations"), (1, "1 observations"), (108, "no gap to fill")]
)
def test_what_cannot_be_fitted_is_refused(seen: int, message: str) -> None:
    hidden = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) >= seen
    with pytest.raises(InputError, match=message):
        apsgeo.impute(pixels(smooth(), hidden))


def test_there_is_nothing_to_distill() -> None:
    prior = fit_random_field(pixels(smooth(), gaps()), spec=QUICK, progress=False)
    with pytest.raises(InputError, match="nothing to train"):
        apsgeo.distill(prior, apsgeo.Mask(), noise_std=0.1)


def test_other_arguments_that_need_a_model_are_refused() -> None:
    obs = pixels(smooth(), gaps())
    with pytest.raises(InputError, match="give no operator"):
        apsgeo.impute(obs, operator=apsgeo.Downsample(2))
    with pytest.raises(InputError, match="2 channels"):
        fit_random_field(xr.concat([obs, obs], "band"))
    with pytest.raises(InputError, match="infinite"):
        fit_random_field(obs.where(obs < obs.max(), np.inf))
