"""Observations of another resolution: means over the cells of their own grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import apsgeo
from apsgeo.cli import app
from apsgeo.domains import Domain, HEALPixDomain, ImageDomain, LatLonDomain
from apsgeo.domains.regrid import conservative
from apsgeo.errors import GridError, InputError
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.own_spread import OwnSpread
from apsgeo.io import write_netcdf
from apsgeo.labels.labels import labels_of
from apsgeo.operators import CellMeans, Mask, from_config
from apsgeo.posterior import Posterior
from tests.cases import alike, history, numpy_seeded

NOISE = 0.3
SCALES = HybridScales(0.5, 3000.0, 0.05)
OTHERS = {
    "coarser": LatLonDomain([60.0, 0.0, -60.0], np.arange(36.0, 360.0, 72.0)),
    "finer": LatLonDomain(np.linspace(84, -84, 15), np.arange(0, 360, 20.0)),
    "healpix": HEALPixDomain(2),
}


@pytest.fixture(scope="module")
def prior() -> apsgeo.FieldPrior:
    options: Any = {"scales": SCALES, "anchor_scales": SCALES, "rank": 4, "steps": 0}
    return apsgeo.fit_prior(history(20), memory=False, progress=False, **options)


@pytest.fixture(scope="module")
def flow(prior: apsgeo.FieldPrior) -> Posterior:
    spec = CouplingSpec(width=4, depth=1, context=4)
    options: Any = {"steps": 0, "folds": 2, "rounds": 1, "progress": False}
    return apsgeo.distill(prior, Mask(), NOISE, spec=spec, **options)


def observed(domain: Domain, share: float = 0.6) -> xr.DataArray:
    """Three months of means over the cells of a domain, with gaps."""
    labels = labels_of(domain)
    rng = numpy_seeded(1)
    values = 15 + rng.normal(size=(3, *labels.layout.shape)).astype(np.float32)
    time = xr.date_range("2001-01-01", periods=3, freq="MS")
    obs = xr.DataArray(
        values, {"time": time, **labels.coords}, ("time", *labels.layout.dims), "air"
    ).assign_attrs(units="degC")
    if labels.grid_mapping:
        obs.encoding["grid_mapping"] = labels.grid_mapping
    return obs.where(rng.random(values.shape) < share)


@pytest.mark.parametrize("name", OTHERS)
def test_members_have_the_moments_of_dense_matrices(prior: apsgeo.FieldPrior, name: str) -> None:
    domain, obs = OTHERS[name], observed(OTHERS[name])
    model = Posterior.of(prior, prior.anchor, Mask(), NOISE)
    count = 3000
    members = apsgeo.impute(obs, model, count, operator=CellMeans()).values.reshape(count, 3, -1)
    a = conservative(prior.domain, domain).matrix.toarray()
    for month in range(3):
        y = obs[month].values.ravel()
        seen = ~np.isnan(y)
        std, mean = (n[month, 0].double().numpy() for n in (prior.normals.std, prior.normals.mean))
        gaussian = prior.anchor.at(month)
        every = np.arange(gaussian.size)
        c = std[:, None] * gaussian.covariance(every, every) * std
        own = a[seen]
        gain = c @ own.T @ np.linalg.inv(own @ c @ own.T + NOISE**2 * np.eye(seen.sum()))
        expected = mean + gain @ (y[seen] - own @ mean)
        variance = np.diag(c - gain @ own @ c)
        found = members[:, month].astype(np.float64)
        # six standard errors of a mean and of a variance of normal numbers
        assert (np.abs(found.mean(0) - expected) < 6 * np.sqrt(variance / count) + 2e-3).all()
        assert (np.abs(found.var(0) / variance - 1) < 6 * np.sqrt(2 / count) + 2e-3).all()


def test_a_flow_gives_way_to_the_gaussian_that_it_starts_from(
    prior: apsgeo.FieldPrior, flow: Posterior
) -> None:
    start = VecchiaPrior(prior.anchor, spread=OwnSpread())
    local = Posterior.of(prior, start, Mask(), NOISE)
    obs = observed(OTHERS["coarser"])
    found = apsgeo.impute(obs, flow, 3, operator=CellMeans())
    assert found.attrs["method"] == "local Gaussian, own spread"
    alike(found.values, apsgeo.impute(obs, local, 3, operator=CellMeans()).values, 4000)
    with pytest.raises(GridError, match=r"means over their own cells.*CellMeans\(\)"):
        apsgeo.impute(obs, flow)


def test_cells_off_the_domain_measure_nothing(prior: apsgeo.FieldPrior) -> None:
    regional = LatLonDomain(np.arange(60.0, 32.0, -3.0), np.arange(-10.0, 16.0, 3.0))
    rng = numpy_seeded(2)
    fields = xr.DataArray(
        5 + rng.normal(size=(30, 10, 9)).astype(np.float32),
        {"lat": regional.lat, "lon": regional.lon},
        ("sample", "lat", "lon"),
    )
    options: Any = {"scales": SCALES, "anchor_scales": SCALES, "rank": 4, "steps": 0}
    model = apsgeo.fit_prior(fields, progress=False, **options)
    posterior = Posterior.of(model, model.anchor, Mask(), NOISE)
    whole = LatLonDomain(np.linspace(85, -85, 18), np.arange(0, 360, 10.0))
    obs = observed(whole, share=1.0).isel(time=0, drop=True)
    found = apsgeo.impute(obs, posterior, 3, operator=CellMeans())
    changed = obs.where((obs.lat > 20) & (obs.lat < 70), 1e4)
    alike(apsgeo.impute(changed, posterior, 3, operator=CellMeans()).values, found.values, 1)


def test_the_operator_is_saved_and_refuses_what_it_cannot_be(prior: apsgeo.FieldPrior) -> None:
    operator = CellMeans(OTHERS["coarser"])
    assert from_config(operator.to_config()) == operator
    assert from_config(CellMeans().to_config()) == CellMeans()
    with pytest.raises(InputError, match="takes its cells from labelled observations"):
        CellMeans().on(prior.domain)
    with pytest.raises(InputError, match="conservative regridding"):
        CellMeans(ImageDomain(3, 3)).on(prior.domain)


def test_the_command_takes_cell_means(flow: Posterior, tmp_path: Path) -> None:
    model, obs = flow.save(tmp_path / "model"), observed(OTHERS["coarser"])
    file, out = write_netcdf(obs, tmp_path / "obs.nc"), tmp_path / "out.nc"
    line = ["impute", str(file), str(model), str(out), "--members", "2"]
    refused = CliRunner().invoke(app, line)
    assert refused.exit_code == 2
    assert "--cell-means" in refused.stderr
    done = CliRunner().invoke(app, [*line, "--cell-means"])
    assert done.exit_code == 0, (done.output, done.exception)
    with xr.open_dataset(out) as written:
        expected = apsgeo.impute(obs, flow, 2, operator=CellMeans())
        alike(written.air.values, expected.values, 4000)
