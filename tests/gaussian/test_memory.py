"""Neighbouring records: a covariance in time, and posteriors given what is around each record."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from apsgeo.gaussian.localised import LocalisedField, LocalisedPrior
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.time.series import SeriesPrior
from apsgeo.gaussian.vecchia import VecchiaPosterior, VecchiaPrior
from apsgeo.measurement import Measurement
from apsgeo.operators import Downsample
from tests.cases import alike, noise, rounding, seeded
from tests.gaussian.test_vecchia import dense
from tests.places import PLACES

TIMES = torch.tensor([0.0, 1.0, 2.0, 4.0, 5.5, 6.5], dtype=torch.float64)


def memory_of(prior: GaussianPrior, window: int = 2) -> Memory:
    """Rates that differ between values as much as can be."""
    rho = 0.1 + 0.8 * torch.rand(prior.variance.shape, generator=seeded(3), dtype=torch.float64)
    share = 0.6 * torch.rand(prior.variance.shape, generator=seeded(7), dtype=torch.float64)
    return Memory(-rho.log(), share, 0.95, window)


@pytest.fixture(params=["latlon", "image", "healpix"])
def prior(request: pytest.FixtureRequest) -> GaussianPrior:
    return dense(PLACES[request.param].domain)


def stationary(prior: GaussianPrior, memory: Memory) -> np.ndarray:
    """The stationary covariance of the fast part at one time, from the equation that it solves."""
    every, rate = np.arange(prior.size), memory.rate.double().flatten().numpy()
    driven = 2.0 * np.sqrt(np.outer(rate, rate)) * prior.covariance(every, every)
    return driven / (rate[:, None] + rate)


def joint(prior: GaussianPrior, memory: Memory, times: np.ndarray) -> np.ndarray:
    """The covariance (time * value, time * value) of a process that forgets from time to time."""
    here, rate = stationary(prior, memory), memory.rate.double().flatten().numpy()
    every, share = np.arange(prior.size), memory.slow.double().flatten().numpy()
    fast, slow = np.sqrt(1.0 - share), np.sqrt(share)

    def block(first: float, second: float) -> np.ndarray:
        forgets = np.exp(-rate * abs(second - first))
        left = here * forgets if second >= first else here * forgets[:, None]
        lasts = prior.covariance(every, every) * memory.slow_correlation ** abs(second - first)
        return np.outer(fast, fast) * left + np.outer(slow, slow) * lasts

    return np.block([[block(a, b) for b in times] for a in times])


def measured(
    prior: GaussianPrior, times: torch.Tensor = TIMES, density: float = 0.3
) -> Measurement:
    """Random values of some nodes at some times, with records of the series around each."""
    shape = (len(times), prior.channels, prior.domain.num_nodes)
    mask = torch.rand(shape, generator=seeded(1)) < density
    std = 0.3 + 0.3 * torch.rand(shape, generator=seeded(2), dtype=torch.float64)
    return Measurement(noise(*shape), mask, std, time=times).among(slice(None))


def exact(
    prior: GaussianPrior, memory: Memory, given: Measurement, record: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a record given those that matter to it, by dense algebra."""
    assert given.time is not None
    near = [place for _, place in memory.neighbours(given.time, given.time)[record]]
    used = [record, *near]
    matrix = joint(prior, memory, given.time.numpy()[used])
    seen = np.flatnonzero(given.mask[used].flatten().numpy())
    gram = matrix[np.ix_(seen, seen)] + np.diag(given.noise_std[used].flatten().numpy()[seen] ** 2)
    gain = np.linalg.solve(gram, matrix[seen, : prior.size]).T
    mean = gain @ given.values[used].flatten().double().numpy()[seen]
    return mean, matrix[: prior.size, : prior.size] - gain @ matrix[seen, : prior.size]


def test_the_covariance_is_that_of_a_simulated_process(prior: GaussianPrior) -> None:
    """x(t + 1) = D x(t) + e(t): the noise that keeps the covariance is itself a covariance."""
    memory = replace(memory_of(prior), slow=torch.zeros_like(prior.variance))
    here, rho = stationary(prior, memory), memory.correlation.flatten().numpy()
    driving = here - np.outer(rho, rho) * here
    assert np.linalg.eigvalsh(driving).min() > 0.0
    state = np.zeros_like(here)
    for _ in range(200):  # from a state of zero on: 0.9^400 is left of it
        state = rho[:, None] * state * rho + driving
    np.testing.assert_allclose(state, here, rtol=0, atol=1e-10)
    every = np.arange(prior.size)
    for memory_ in (memory, memory_of(prior)):
        expected = joint(prior, memory_, np.arange(4.0))[: prior.size]
        for lag, block in enumerate(np.split(expected, 4, axis=1)):
            away = torch.tensor(float(lag), dtype=torch.float64)
            factor = memory_.between(torch.from_numpy(every), torch.from_numpy(every), away)
            found = factor.numpy() * prior.covariance(every, every)
            np.testing.assert_allclose(found, block, rtol=0, atol=1e-10)


def test_the_covariance_is_positive_definite_at_any_times(prior: GaussianPrior) -> None:
    """Where the geometric mean of the correlations, to the power of the lag, is not."""
    memory, times = memory_of(prior), np.array([0.0, 0.3, 1.0, 2.0, 2.1, 5.0])
    assert np.linalg.eigvalsh(joint(prior, memory, times)).min() > 1e-6
    rho = memory.correlation.flatten().numpy()
    lag = np.abs(np.subtract.outer(times, times))
    every = np.arange(prior.size)
    product = np.sqrt(np.outer(rho, rho))
    naive = np.block([[prior.covariance(every, every) * product**k for k in row] for row in lag])
    assert np.linalg.eigvalsh(naive).min() < -1e-6


def test_the_exact_posterior_is_that_of_dense_algebra(prior: GaussianPrior) -> None:
    memory, given = memory_of(prior), measured(prior)
    draws = SeriesPrior(prior, memory).posterior(given)
    for record in range(len(TIMES)):
        mean, covariance = exact(prior, memory, given, record)
        np.testing.assert_allclose(draws.mean[record].flatten(), mean, rtol=0, atol=1e-9)
        std = draws.marginal_std[record].flatten()
        np.testing.assert_allclose(std, np.sqrt(np.diag(covariance)), rtol=0, atol=1e-9)
    drawn = draws.members(4000, 0).flatten(2).numpy()
    errors = (drawn.mean(0) - draws.mean.flatten(1).numpy()) / draws.marginal_std.flatten(1).numpy()
    assert np.abs(errors).max() < 6.0 / 4000**0.5
    ratio = drawn.std(0) / draws.marginal_std.flatten(1).numpy()
    assert np.abs(ratio - 1.0).max() < 6.0 / (2 * 4000) ** 0.5


def everything(prior: GaussianPrior, memory: Memory) -> VecchiaPrior:
    """Give the only block all observations of all records."""
    size = prior.size
    return VecchiaPrior(prior, memory, observations=8 * size, before=size, block=size)


def test_given_everything_the_local_posterior_is_the_exact_one(prior: GaussianPrior) -> None:
    memory, given = memory_of(prior), measured(prior)
    draws = everything(prior, memory).posterior(given)
    assert isinstance(draws, VecchiaPosterior)
    # single precision: see test_vecchia; the least variance of the noise is 0.09
    error = 4 * rounding(prior.size * len(TIMES)) / 0.09
    for record in range(len(TIMES)):
        mean, covariance = exact(prior, memory, given, record)
        most = float(given.values.abs().max())
        np.testing.assert_allclose(draws.mean[record].flatten(), mean, rtol=0, atol=error * most)
        variance = draws.std()[record].flatten() ** 2
        np.testing.assert_allclose(variance, np.diag(covariance), rtol=0, atol=error)


def test_averages_of_neighbours_are_conditioned_on_exactly() -> None:
    prior = dense(PLACES["image"].domain)
    memory, operator = memory_of(prior), Downsample(2).on(prior.domain)
    shape = (3, 1, operator.num_observations)
    scale = 0.5 + torch.rand(3, 1, prior.domain.num_nodes, generator=seeded(4)).double()
    mask = torch.rand(shape, generator=seeded(5)) < 0.6
    std = torch.full(shape, 0.4, dtype=torch.float64)
    given = Measurement(
        noise(*shape), mask, std, operator=operator, scale=scale, time=TIMES[:3]
    ).among(slice(None))
    expected = SeriesPrior(prior, memory).posterior(given)
    draws = everything(prior, memory).posterior(given)
    error = 4 * rounding(3 * prior.size) / 0.16 * float(given.values.abs().max())
    torch.testing.assert_close(draws.mean, expected.mean, rtol=0, atol=error)


def test_neighbours_help_by_what_they_tell(prior: GaussianPrior) -> None:
    """Where nothing was observed in a record itself, its neighbours still narrow it."""
    memory, given = memory_of(prior), measured(prior)
    hidden = given.mask.clone()
    hidden[1] = False
    alone = replace(given, mask=hidden)
    draws = VecchiaPrior(prior, memory).posterior(alone)
    assert isinstance(draws, VecchiaPosterior)
    _, covariance = exact(prior, memory, alone, 1)
    close = np.abs(draws.std()[1].flatten().numpy() / np.sqrt(np.diag(covariance)) - 1.0)
    assert close.max() < 0.05
    assert np.diag(covariance).mean() < 0.97 * float(prior.variance.mean())


def test_without_neighbours_a_record_is_on_its_own(prior: GaussianPrior) -> None:
    given = measured(prior)
    method = VecchiaPrior(prior)
    expected = method.posterior(replace(given, around=None))
    alike(method.posterior(given).members(3, 0).float(), expected.members(3, 0).float())
    far = replace(given, time=torch.arange(len(TIMES)) * 100.0, around=None).among(slice(None))
    remembering = VecchiaPrior(prior, memory_of(prior))
    alone = remembering.posterior(replace(far, around=None))
    alike(remembering.posterior(far).mean.float(), alone.mean.float())  # factors are in float32


def test_a_record_does_not_depend_on_those_beyond_its_window(prior: GaussianPrior) -> None:
    memory, given = memory_of(prior, window=1), measured(prior)
    method = VecchiaPrior(prior, memory)
    whole = method.posterior(given).members(3, 0)
    part = replace(given[2:5], around=given[1:].among(slice(None)).around)
    alike(method.posterior(part).members(3, 0).float(), whole[:, 2:5].float(), terms=4000)
    junk = given.values.masked_fill(~given.mask, torch.nan)
    again = Measurement(junk, given.mask, given.noise_std, time=TIMES).among(slice(None))
    alike(method.posterior(again).members(3, 0).float(), whole.float(), terms=4000)


def test_neighbours_are_the_nearest_on_either_side() -> None:
    memory = Memory(torch.ones(1, 4), window=2)
    time = torch.tensor([0.0, 0.93, 1.5, 2.0, 3.05, 9.0, 9.0])
    found = memory.neighbours(time, time)
    # A month is up to 8 % shorter or longer than the usual: its lag is a whole one.
    assert [place for _, place in found[0]] == [1, 2]
    assert found[0][0][0] == 1.0
    assert [place for _, place in found[3]] == [1, 2, 4]
    assert found[5] == []
    assert memory.neighbours(time[:1] + 1.0, time[:1]) == [[(-1.0, 0)]]


def test_members_cohere_in_time_and_are_exactly_normal() -> None:
    rho = torch.tensor([[0.05, 0.4, 0.7, 0.85]])
    memory, count = Memory(-rho.log()), 10_000
    time = torch.tensor([-1.3, 0.0, 1.0, 1.2, 40.0], dtype=torch.float64)
    white = memory.members_noise(0, time, count)
    bound = 6.0 / count**0.5
    assert float(white.mean(0).abs().max()) < bound
    assert float((white.var(0) - 1.0).abs().max()) < bound * 2**0.5
    a_step = (white[:, 1] * white[:, 2]).mean(0)
    torch.testing.assert_close(a_step, rho[0], rtol=0, atol=bound * 2**0.5)
    assert float((white[:, 1] * white[:, 4]).mean(0).abs().max()) < bound
    # Of each record alone: not of the others, or of the number of members.
    alike(memory.members_noise(0, time[2:3], 7)[:, 0], white[:7, 2])


def test_the_memory_of_a_simulated_history_is_found() -> None:
    domain = PLACES["latlon"].domain
    prior = dense(domain)
    truth = Memory(torch.full((1, domain.num_nodes), 0.4))
    rho, here = np.exp(-0.4), stationary(prior, truth)
    root = np.linalg.cholesky(here + 1e-9 * np.eye(prior.size))
    white = noise(1500, prior.size).numpy() @ root.T
    fields = white.copy()
    for t in range(1, len(white)):
        fields[t] = rho * fields[t - 1] + (1.0 - rho**2) ** 0.5 * white[t]
    history = torch.from_numpy(fields)[:, None]
    months = np.cumsum(np.tile([31, 28, 31, 30, 31, 30], 250)) / 31.0
    found = Memory.fit(domain, history, months)
    assert found is not None
    # An autocorrelation of n values errs by about sqrt((1 - rho^2) / n) = 0.019.
    assert float((found.correlation - rho).abs().max()) < 5 * 0.019
    assert Memory.fit(domain, torch.from_numpy(white)[:, None], months) is None
    gaps = months + np.arange(1500)  # no two records are a step apart
    assert Memory.fit(domain, history, gaps) is None


def test_a_memory_is_saved_as_it_is() -> None:
    rate, slow = torch.rand(2, 2, 5, generator=seeded(0))
    memory = Memory(rate, slow, 0.93, window=3, step_days=30.5)
    config, tensors = memory.to_state()
    again = Memory.from_state(config, tensors)
    assert torch.equal(again.rate, rate)
    assert torch.equal(again.slow, slow)
    assert (again.slow_correlation, again.window, again.step_days) == (0.93, 3, 30.5)


def test_a_localised_prior_of_several_channels_remembers() -> None:
    domain = PLACES["latlon"].domain
    nodes = domain.num_nodes
    loadings = 0.5 * torch.randn(2, nodes, 3, generator=seeded(6))
    field = LocalisedField(domain, 1e6, 2000.0)  # a taper of ones: its factor is exact
    std = torch.full((2, nodes), 0.5)
    prior = LocalisedPrior(field, loadings, std, 0.3 * std, global_weight=0.7, tapered_weight=0.3)
    memory = memory_of(prior)
    given = measured(prior)
    expected = SeriesPrior(prior, memory).posterior(given)
    draws = everything(prior, memory).posterior(given)
    error = 4 * rounding(len(TIMES) * prior.size) / 0.09 * float(given.values.abs().max())
    torch.testing.assert_close(draws.mean, expected.mean, rtol=0, atol=error)
