"""The pattern of a trend in a seasonal prior: its variance is that of the history, and grows."""

import numpy as np
import pytest
import torch

from apsgeo.domains import LatLonDomain
from apsgeo.gaussian.drift.added import AddedPatterns
from apsgeo.gaussian.fit import add_drift, fit_gaussian
from apsgeo.gaussian.scales import LocalisedScales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.measurement import Measurement
from tests.cases import noise

DOMAIN = LatLonDomain(np.linspace(75, -75, 6), np.arange(0, 360, 36.0))
PATTERN = 0.2 * torch.ones(1, DOMAIN.num_nodes)
SCALES = LocalisedScales(0.9, 0.8, 3000.0, 3000.0, 0.05)


@pytest.fixture(scope="module")
def fields() -> torch.Tensor:
    """Fields that vary everywhere at once, by half of their standard deviation."""
    common = noise(80, 1, 1, seed=1)
    return (0.5 * common + noise(80, 1, DOMAIN.num_nodes, seed=2)).float()


@pytest.fixture(scope="module")
def prior(fields: torch.Tensor) -> SeasonalPrior:
    found = fit_gaussian(SCALES.field(DOMAIN, fields), fields, SCALES)
    add_drift(found, fields, PATTERN)
    return found


def mean_variance(covariance: np.ndarray) -> float:
    share = (DOMAIN.areas / DOMAIN.areas.sum()).numpy()
    return float(share @ covariance @ share)


def test_the_variance_of_the_pattern_is_that_of_the_history(
    prior: SeasonalPrior, fields: torch.Tensor
) -> None:
    every = np.arange(DOMAIN.num_nodes)
    share = (DOMAIN.areas / DOMAIN.areas.sum()).double()
    own = float((fields[:, 0].double() @ share).square().mean())
    before = mean_variance(prior.annual.covariance(every, every))
    after = mean_variance(prior.at(0).covariance(every, every))
    assert before < 0.8 * own
    # The prior's own part is a mean over pairs of a thousand draws: some per cent of it.
    assert abs(after - own) < 0.2 * own


def test_it_grows_with_wander_and_is_saved(prior: SeasonalPrior) -> None:
    every = np.arange(DOMAIN.num_nodes)
    config, tensors = prior.to_state()
    again = SeasonalPrior.from_state(config, tensors, DOMAIN)
    widths = [mean_variance(again.at(0, w).covariance(every, every)) for w in (0.0, 2.0, 8.0)]
    assert widths[0] < widths[1] < widths[2]
    # Of a pattern of 0.2 everywhere, 8 of its amplitude are 1.6, up to an eighth of an octave.
    assert 0.8 < widths[2] / (1.6**2 + widths[0]) < 1.25
    assert again.at(0, 2.0) is again.at(0, 2.05)
    assert isinstance(again.at(0, 2.0), AddedPatterns)


def test_each_record_has_the_wander_of_its_measurement(prior: SeasonalPrior) -> None:
    values = torch.full((2, 1, DOMAIN.num_nodes), torch.nan)
    values[:, 0, ::7] = 2.0
    measured = Measurement(
        values,
        ~values.isnan(),
        torch.tensor(0.5),
        season=torch.zeros(2, dtype=torch.long),
        wander=torch.tensor([0.0, 20.0]),
    )
    mean = prior.posterior(measured).mean
    assert float(mean[1].mean()) > float(mean[0].mean()) + 0.1
    torch.testing.assert_close(prior.posterior(measured[1:]).mean[0], mean[1])


def test_without_a_trend_nothing_is_added(fields: torch.Tensor) -> None:
    plain = fit_gaussian(SCALES.field(DOMAIN, fields), fields, SCALES)
    assert plain.at(0, 5.0) is plain.annual
    assert "drift" not in plain.to_state()[1]
