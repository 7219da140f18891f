"""Directions of vectors whose lengths the history has, and observations lack."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import apsgeo
from apsgeo.errors import InputError
from apsgeo.gaussian.fit import fit_gaussian
from apsgeo.gaussian.left_out.nodes import left_out
from apsgeo.gaussian.left_out.records import held_out_spread
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.measurement import Measurement, ProjectedNormals
from apsgeo.measurement.projected import length_given
from apsgeo.values.catalogue import manifold_of
from apsgeo.values.sphere import Circle, Sphere
from apsgeo.values.values import Values
from tests.cases import alike, numpy_seeded, seeded
from tests.values.test_three_calls import QUICK, angles, winds


def fitted(history: xr.Dataset, **options: Any) -> tuple[apsgeo.FieldPrior, apsgeo.Posterior]:
    prior = apsgeo.fit_prior(history, manifold="circle", **QUICK, **options)
    return prior, apsgeo.Posterior.of(prior, prior.anchor, apsgeo.Mask(), noise_std=0.1)


@pytest.mark.parametrize("sphere", [Circle(), Sphere(2)], ids=repr)
def test_a_length_is_its_mean_given_the_direction(sphere: Sphere) -> None:
    """Against draws of the vectors, weighted by the likelihood of the observed direction."""
    size, noise = sphere.ambient, 0.4
    root = torch.randn(size, size, generator=seeded(1), dtype=torch.float64)
    mean = torch.linspace(-0.5, 1.0, size, dtype=torch.float64)
    direction = torch.nn.functional.normalize(torch.arange(1.0, size + 1.0).double(), dim=0)
    drawn = torch.randn(400_000, size, generator=seeded(2), dtype=torch.float64) @ root.T + mean
    along = drawn @ direction
    across = (drawn - along[:, None] * direction).norm(dim=1) / along
    weight = torch.where(along > 0.0, torch.exp(-0.5 * (across / noise) ** 2), 0.0)
    expected = (weight * along).sum() / weight.sum()
    found, var = length_given(
        sphere, direction[None], mean[None], (root @ root.T)[None], torch.tensor([noise])
    )
    share = weight / weight.sum()
    error = ((share * (along - expected)) ** 2).sum().sqrt()
    assert abs(float(found) - float(expected)) < 5.0 * float(error)
    off = (along - expected).square()
    spread = (share * off).sum()
    error = ((share * (off - spread)) ** 2).sum().sqrt()
    assert abs(float(var) - float(spread)) < 5.0 * float(error)


def test_nodes_are_predicted_from_the_others_alone() -> None:
    """As a solve of the whole covariance does, and whatever was observed at the node."""
    domain = apsgeo.ImageDomain(3, 4)
    loadings = torch.randn(2, 12, 3, generator=seeded(3))
    prior = LowRankPrior(domain, loadings, white_std=0.5)
    y = torch.randn(1, 2, 12, generator=seeded(4))
    y[:, :, 5:8] = torch.nan
    given = Measurement.of(y, 0.3)
    mean, cov = left_out([prior], given)
    every = np.arange(24)
    whole = prior.covariance(every, every)
    seen = np.flatnonzero(~np.isnan(y.numpy().ravel()))
    for node in (0, 9):
        own, others = [node, 12 + node], [v for v in seen if v % 12 != node]
        joint = whole[np.ix_(others, others)] + 0.09 * np.eye(len(others))
        gain = np.linalg.solve(joint, whole[np.ix_(others, own)]).T
        expected = gain @ y.numpy().ravel()[others]
        left = whole[np.ix_(own, own)] - gain @ whole[np.ix_(others, own)]
        # the white share of left_out's joint covariance, and single precision
        np.testing.assert_allclose(mean[0, :, node], expected, atol=2e-4)
        np.testing.assert_allclose(cov[0, node], left, atol=2e-4)
    assert not bool(mean[:, :, 5:8].any())
    moved = y.clone()
    moved[:, :, 0] += 3.0
    again, _ = left_out([prior], Measurement.of(moved, 0.3))
    alike(again[:, :, 0].float(), mean[:, :, 0].float())


def test_the_spread_is_that_of_records_not_learned_from() -> None:
    domain = apsgeo.ImageDomain(8, 8)
    history = torch.randn(200, 1, 64, generator=seeded(5))
    scales = HybridScales(range_km=1.0, eof_weight=0.05)
    prior: SeasonalPrior = fit_gaussian(scales.field(domain, history), history, scales)
    valid = torch.ones(64, dtype=torch.bool)
    none = torch.zeros(30, dtype=torch.long)
    later = prior.sample(none, seeded(6))
    found = [held_out_spread(prior, size * later, none, valid, targets=40) for size in (1.0, 1.5)]
    # 1200 errors, of which 120 are beyond the quantile: five standard errors of it are 0.13
    assert abs(found[0] - 1.0) < 0.2
    assert abs(found[1] / found[0] - 1.5) < 0.2


def test_the_lengths_of_observations_do_not_matter() -> None:
    prior, posterior = fitted(winds())
    assert isinstance(prior.normals, ProjectedNormals)
    obs = winds().isel(record=slice(0, 2))
    seen = xr.DataArray(numpy_seeded(1).random((2, 4, 6)) < 0.4, dims=("record", "lat", "lon"))
    drawn: Any = apsgeo.impute(obs.where(seen), posterior, members=4)
    longer: Any = apsgeo.impute((3.0 * obs).where(seen), posterior, members=4)
    for name in ("u", "v"):
        alike(longer[name].values, drawn[name].values, 4096)
    alike(np.hypot(drawn.u, drawn.v).values, np.ones(drawn.u.shape, np.float32))
    # A calm has no direction: it is as good as missing.
    calm: Any = apsgeo.impute(
        obs.where(seen, 0.0).where(seen | (obs.lat > 0.0)), posterior, members=4
    )
    alike(calm.u.values, drawn.u.values, 4096)


def test_neighbours_tell_how_long_a_vector_is() -> None:
    """Lengths that the other observations tell, too, are nearer to the true ones."""
    history = winds() + xr.Dataset({"u": 6.0, "v": 2.0})
    prior, posterior = fitted(history)
    normals = prior.normals
    assert isinstance(normals, ProjectedNormals)
    truth = prior.records(history).values.float()
    seen = torch.rand(30, 1, 24, generator=seeded(7)) < 0.3
    given = posterior.measure(torch.where(seen, truth, torch.nan), noise_std=0.05)
    own = normals.measure(given)
    refined = posterior.posterior(given).measurement

    def error(measured: Measurement) -> float:
        vectors = measured.values * normals.spread * normals.std + normals.mean
        return float((vectors.norm(dim=1) - truth.norm(dim=1))[seen[:, 0]].abs().mean())

    assert error(refined) < 0.95 * error(own)


def test_projected_directions_are_for_vectors() -> None:
    chosen = Values(manifold_of("circle"), "projected")
    with pytest.raises(InputError, match="chart='projected' .* gives as angle"):
        apsgeo.fit_prior(angles(), manifold=chosen, **QUICK)
    prior, posterior = fitted(winds())
    y = prior.records(winds()).values[:1]
    members = posterior(y).members(3, 0)
    with pytest.raises(InputError, match="no density in closed form"):
        posterior(y).log_prob(members)
    assert math.isfinite(float(prior.normals.spread))  # type: ignore[attr-defined]
