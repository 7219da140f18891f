"""Every method samples the posterior of the prior that it states, on every domain.

A new method is named in `METHODS`, and gets these tests for its name there.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.gaussian_process.kernels import ConstantKernel, Matern
from torch import Tensor

import apsgeo
from apsgeo.baselines import METHODS, SAMPLERS
from apsgeo.baselines.gaussian import choose_rank, eof_prior, kriging
from apsgeo.diffusion.analytic import AnalyticDiffusion
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.fit import fit_gaussian
from apsgeo.gaussian.kernel import KernelPrior
from apsgeo.gaussian.scales import HybridScales, LocalisedScales, Scales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.measurement import Bias, Draws, Measurement, Method, Normals
from apsgeo.operators import Downsample, Mask
from apsgeo.posterior import Posterior
from tests.cases import alike, numpy_seeded, seeded
from tests.places import PLACES, Place

NOISE = 0.3
DRAWS = 1500
FIELDS = 60


def prior_on(place: Place) -> FieldPrior:
    """A prior of one season, fitted to noise that is smooth, whose diffusion is exact."""
    domain = place.domain
    generator = seeded(1)
    _, basis = domain.eigenbasis(6)
    waves = torch.randn(FIELDS, 1, 6, generator=generator, dtype=torch.float64) @ basis.T
    fields = waves / waves.std() + 0.3 * torch.randn(waves.shape, generator=generator)
    fields = fields.float()
    nodes = domain.num_nodes
    normals = Normals(
        torch.full((1, 1, nodes), 280.0), torch.full((1, 1, nodes), 2.0), torch.ones(nodes).bool()
    )

    def fitted(scales: Scales) -> SeasonalPrior:
        return fit_gaussian(scales.field(domain, fields), fields, scales, rank=5)

    hybrid = fitted(HybridScales.start(domain))
    return FieldPrior(
        domain=domain,
        normals=normals,
        gaussian=hybrid,
        anchor=fitted(LocalisedScales.start(domain)),
        diffusion=AnalyticDiffusion(hybrid.annual),  # type: ignore[arg-type]  # perfectly trained
    )


def kernel_prior(prior: FieldPrior) -> KernelPrior:
    size = float(np.ptp(prior.domain.positions.numpy(), axis=0).max())
    kernel = ConstantKernel(0.3) * Matern(size / 4, nu=0.5) + ConstantKernel(0.7) * Matern(size / 3)
    return KernelPrior(prior.domain, kernel)


@cache
def prior_at(place: str) -> FieldPrior:
    return prior_on(PLACES[place])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try methods on every domain, and samplers that share the walk of DPS on an image alone."""
    wanted = [each for each in ("name", "prior") if each in metafunc.fixturenames]
    cases: list[tuple[str, ...]] = [
        (name, place)
        for name in METHODS
        for place in PLACES
        if name not in SAMPLERS or name == "DPS" or place == "image"
    ]
    each: dict[str, list[tuple[str, ...]]] = {
        "name": [(name,) for name in METHODS],
        "prior": [(place,) for place in PLACES],
        "name prior": cases,
    }
    if wanted:
        metafunc.parametrize(
            wanted, each[" ".join(wanted)], indirect=["prior"][: "prior" in wanted]
        )


@pytest.fixture
def prior(request: pytest.FixtureRequest) -> FieldPrior:
    return prior_at(request.param)


def make(name: str, prior: FieldPrior) -> Method:
    return kernel_prior(prior) if name == "kriging" else METHODS[name](prior)


def quick(name: str, prior: FieldPrior) -> Any:
    """Make a method of few steps, where it has any."""
    method = make(name, prior)
    return replace(method, steps=12) if name in SAMPLERS else method  # type: ignore[type-var]


def covariance(name: str, prior: FieldPrior) -> np.ndarray:
    """Return that which each method states, (N, N), apart from its own algebra where there is one.

    The hybrid's and the localised prior's are tested in tests/gaussian.
    """
    nodes = np.arange(prior.domain.num_nodes)
    match name:
        case "climatology":
            return np.eye(len(nodes))
        case "EOF interpolation":
            loadings = prior.gaussian.eofs.loadings[0].double().numpy()
            left = np.maximum(1 - (loadings**2).sum(1), 1e-3)
            return loadings @ loadings.T + np.diag(left)
        case "kriging":
            return kernel_prior(prior).kernel(prior.domain.positions.numpy())
        case "localised Gaussian" | "local Gaussian":
            return prior.anchor.annual.covariance(nodes, nodes)
    return prior.gaussian.annual.covariance(nodes, nodes)  # the hybrid, and of what DPS samples


def measured(prior: FieldPrior) -> Measurement:
    """Three records: some nodes observed, none, all; the noise differs by node and record."""
    generator = seeded(5)
    shape = (3, 1, prior.domain.num_nodes)
    mask = torch.rand(shape, generator=generator) < 0.3
    mask[0, 0, 0], mask[1], mask[2] = True, False, True
    truth = prior.gaussian.annual.sample(3, generator).double()
    noise = NOISE * (0.5 + torch.rand(shape, generator=generator, dtype=torch.float64))
    values = truth + noise * torch.randn(shape, generator=generator, dtype=torch.float64)
    return Measurement(values, mask, noise, key=torch.tensor([-10, 20, 30]))


def closed_form(prior: np.ndarray, given: Measurement, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior's mean and variance (N,) of a record, by dense algebra."""
    seen = given.mask[t].flatten().numpy()
    operator = given.operator.forward(np.eye(len(prior)))[seen]
    noise = given.noise_std[t].flatten().numpy()[seen]
    cross = operator @ prior
    gain = np.linalg.solve(cross @ operator.T + np.diag(noise**2), cross).T
    mean = gain @ given.values[t].flatten().numpy()[seen]
    return mean, np.diag(prior) - (gain * cross.T).sum(1)


def test_members_have_the_moments_of_the_closed_form(name: str, prior: FieldPrior) -> None:
    given, method = measured(prior), make(name, prior)
    if (bias := getattr(method, "bias", None)) is not None:
        check_biased(method, given[:1], covariance(name, prior), bias)
        return
    draws = method.posterior(given)
    members = draws.members(DRAWS, 3)[:, :, 0].double().numpy()
    for t in range(len(given)):
        mean, variance = closed_form(covariance(name, prior), given, t)
        error = (members[:, t].mean(0) - mean) / np.sqrt(variance)
        ratio = members[:, t].var(0, ddof=1) / variance
        # 5 standard errors of a mean and of a variance of normal draws
        assert np.abs(error).max() < 5 / np.sqrt(DRAWS)
        assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / DRAWS)
        # float64 algebra of matrices whose condition is below 1e6
        found = draws.mean[t, 0].double().numpy()
        assert np.abs((found - mean) / np.sqrt(variance)).max() < 1e-8
        if (std := draws.marginal_std) is not None:
            np.testing.assert_allclose(std[t, 0] ** 2, variance, rtol=1e-8)


def check_biased(method: Method, given: Measurement, prior: np.ndarray, bias: Bias) -> None:
    members = method.posterior(given).members(40, 3)[:, 0, 0].double().numpy()
    mean, variance = closed_form(prior, given, 0)
    error = np.sqrt(((members.mean(0) - mean) ** 2 / variance).mean())
    assert error < bias.mean
    if method.name != "DINEOF":  # which does not see what is not in its EOFs, half of the variance
        assert error < 0.5 * np.sqrt((mean**2 / variance).mean())  # that of the prior's own mean
    least, most = bias.variance
    assert least < (members.var(0, ddof=1) / variance).mean() < most


@pytest.mark.parametrize("place", ["latlon", "healpix"])
def test_other_operators_are_measured_too(name: str, place: str) -> None:
    """Averages over coarser cells: the mean is exact, and DPS is nearer than the prior."""
    if name in SAMPLERS and name != "DPS" and place == "healpix":
        return
    prior = prior_at(place)
    linear, method = Downsample(2).on(prior.domain), make(name, prior)
    truth = prior.gaussian.annual.sample(2, seeded(6)).double()
    values = linear.apply(truth) + 0.1 * torch.randn(linear.apply(truth).shape, generator=seeded(7))
    values[0, 0, 1] = torch.nan
    given = Measurement.of(values, 0.1, linear)
    draws = method.posterior(given)
    mean, variance = closed_form(covariance(name, prior), given, 0)
    if getattr(method, "bias", None) is not None:
        found = draws.members(12, 0)[:, 0, 0].mean(0).numpy()
        share = 1.0 if name == "DINEOF" else 0.5
        assert np.abs(found - mean).mean() < share * np.abs(mean).mean()
        return
    np.testing.assert_allclose(draws.mean[0, 0], mean, atol=1e-8)
    if (std := draws.marginal_std) is not None:
        np.testing.assert_allclose(std[0, 0] ** 2, variance, atol=1e-8)


def test_methods_take_several_channels(name: str) -> None:
    """Two channels that are independent are filled as each alone; kriging says that it cannot."""
    one = prior_on(PLACES["image"])
    fields = torch.randn(FIELDS, 2, one.domain.num_nodes, generator=seeded(8))
    mean, std = (part.repeat(1, 2, 1) for part in (one.normals.mean, one.normals.std))
    normals = replace(one.normals, mean=mean, std=std)
    scales = HybridScales.start(one.domain)
    both = fit_gaussian(scales.field(one.domain, fields), fields, scales, rank=5)
    prior = replace(
        one,
        normals=normals,
        gaussian=both,
        anchor=both,
        diffusion=AnalyticDiffusion(both.annual),  # type: ignore[arg-type]
    )
    if name == "kriging":
        with pytest.raises(InputError, match="one channel"):
            KernelPrior.fit(one.domain, fields)
        return
    values = fields[:2].double()
    mask = torch.rand(values.shape, generator=seeded(9)) < 0.4
    draws = quick(name, prior).posterior(Measurement(values, mask, torch.tensor(NOISE)))
    members = draws.members(3, 0)
    assert members.shape == (3, *values.shape)
    assert bool(torch.isfinite(members).all())
    assert float(members.std(0)[~mask].mean()) > float(members.std(0)[mask].mean())


def test_a_member_depends_on_seed_record_and_number_alone(name: str, prior: FieldPrior) -> None:
    given, method = measured(prior), quick(name, prior)
    members = method.posterior(given).members(3, 7)
    assert members.shape == (3, *given.shape)
    alone = method.posterior(given[1:2]).members(2, 7)
    # to rounding: the batch decides the order of sums, in iterations in which errors may grow
    spread = members.std()
    assert float((alone - members[:2, 1:2]).abs().max()) < 1e-4 * float(spread)
    renamed = method.posterior(replace(given, key=given.key + 1)).members(3, 7)
    assert float((renamed - members).abs().amin((0, 2, 3)).max()) > 0.0


def test_a_density_is_of_fields_of_the_same_batch(name: str, prior: FieldPrior) -> None:
    if name in SAMPLERS:
        return
    draws = make(name, prior).posterior(measured(prior)[:1])
    fields = draws.members(4, 0)
    if name == "kriging" and len(np.unique(prior.domain.positions.round(decimals=9), axis=0)) < len(
        prior.domain.positions
    ):  # nodes at the poles coincide, so that there is no density
        with pytest.raises(InputError, match="singular"):
            draws.log_prob(fields)
        return
    each = torch.stack([draws.log_prob(field) for field in fields])
    together = draws.log_prob(fields)
    assert together.shape == (4, 1)
    alike(together.float(), each.float())  # some are of factors in float32
    with pytest.raises(InputError, match="fields\\[:, None\\]"):
        draws.log_prob(fields[:, 0])


@pytest.mark.same_bits
@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_what_stands_under_the_mask_changes_no_bit(
    name: str, prior: FieldPrior, junk: float
) -> None:
    given, method = measured(prior), quick(name, prior)
    other = replace(
        given,
        values=torch.where(given.mask, given.values, junk),
        noise_std=torch.where(given.mask, given.noise_std, junk),
    )
    first, second = (method.posterior(each).members(2, 0) for each in (given, other))
    assert torch.equal(first, second)


def test_every_method_fills_gaps_with_labels(name: str) -> None:
    """`impute` takes any method of a prior, in the units of the data."""
    prior = prior_on(PLACES["latlon"])
    domain: Any = prior.domain
    values = prior.normals.restore(measured(prior).values[:1].float(), torch.zeros(1).long())
    values = torch.where(measured(prior).mask[:1], values, torch.nan)
    obs = xr.DataArray(
        values.reshape(1, *domain.shape).numpy(),
        dims=("sample", "lat", "lon"),
        coords={"lat": domain.lat, "lon": domain.lon},
        name="air",
    )
    posterior = Posterior.of(prior, quick(name, prior), Mask(), 0.5)
    ensemble = apsgeo.impute(obs, posterior, members=3)
    assert ensemble.dims == ("member", "sample", "lat", "lon")
    expected = posterior(values, noise_std=0.5).members(3, 0)
    alike(ensemble.values.reshape(3, -1), expected.reshape(3, -1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_has_no_density_and_needs_a_diffusion_prior(
    sampler: str, prior: FieldPrior
) -> None:
    draws: Draws = SAMPLERS[sampler](prior).posterior(measured(prior))
    assert draws.marginal_std is None
    with pytest.raises(InputError, match="without a density"):
        draws.log_prob(draws.measurement.values)
    with pytest.raises(InputError, match="diffusion prior"):
        SAMPLERS[sampler](replace(prior, diffusion=None))


def test_kriging_finds_the_covariance_it_was_fitted_to() -> None:
    prior = prior_on(PLACES["latlon"])
    truth = kernel_prior(prior)
    fields = truth.sample(240, seeded(8))
    fitted = KernelPrior.fit(prior.domain, fields, nodes=prior.domain.num_nodes, times=240)
    nodes = np.arange(prior.domain.num_nodes)
    expected = truth.covariance(nodes, nodes)
    # A covariance estimated from 240 draws has standard errors of at most sqrt(2 / 240) = 0.09.
    assert np.abs(fitted.covariance(nodes, nodes) - expected).max() < 0.1
    with pytest.raises(InputError, match="history"):
        kriging(prior)


def test_eof_rank_is_chosen_by_held_out_crps() -> None:
    domain = PLACES["latlon"].domain
    rng = numpy_seeded(9)
    shapes = rng.normal(0, 1, (3, domain.num_nodes))
    patterns = torch.tensor(shapes * np.sqrt(0.7 / (shapes**2).sum(0)))
    amplitudes = torch.tensor(rng.standard_normal((90, 3)))
    noise = torch.tensor(rng.normal(0, np.sqrt(0.3), (90, domain.num_nodes)))
    fields = (amplitudes @ patterns + noise)[:, None]
    truth = fields[60:]
    mask = torch.tensor(rng.random(truth.shape) < 0.4)
    seen = Measurement(truth, mask, torch.tensor(0.01))
    hidden = (~mask[:, 0]).numpy().astype(float)
    cases = [(seen, truth[:, 0].numpy(), np.ones(hidden.shape), hidden)]

    def chosen(ranks: list[int]) -> Tensor:
        return choose_rank(domain, fields[:60], cases, ranks, progress=False).loadings

    # Three patterns are there; one is too few and forty fit the history's noise.
    assert chosen([1, 3, 40]).shape[-1] == 3
    with pytest.raises(InputError, match="70"):
        chosen([70])
    assert eof_prior(domain, chosen([3])).name == "EOF interpolation"
