"""A generator without a density is trained by the score of its members, on the pairs of flows."""

from pathlib import Path

import pytest
import torch

from apsgeo import FieldPrior, Mask, Posterior, Training, distill, fit_prior
from apsgeo.errors import InputError
from apsgeo.flows.build import GeneratorSpec
from apsgeo.gaussian.scales import HybridScales
from tests.cases import alike, history

MONTHS = history(years=5)
SPEC = GeneratorSpec(width=8, depth=1, embedding=2, noise=8)


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    scales, quiet = HybridScales(), Training(steps=0, progress=False)
    return fit_prior(MONTHS, scales=scales, anchor_scales=scales, rank=5, training=quiet)


@pytest.fixture(scope="module")
def trained(prior: FieldPrior) -> Posterior:
    training = Training(steps=10, batch=12, lr=2e-2, progress=False)
    return distill(
        prior,
        Mask(),
        0.5,
        spec=SPEC,
        teacher="gaussian",
        score_scales=3,
        rounds=2,
        training=training,
    )


def observed() -> torch.Tensor:
    values = torch.from_numpy(MONTHS.values[-2:].reshape(2, 1, -1)).clone()
    values[:, :, torch.arange(values.shape[-1]) % 20 > 0] = torch.nan
    return values


def test_a_generator_is_saved_and_knows_no_batch(trained: Posterior, tmp_path: Path) -> None:
    again = Posterior.load(trained.save(tmp_path / "model"))
    values, season = observed(), torch.tensor([10, 11])
    members = trained(values, season=season).members(3, seed=1)
    alike(again(values, season=season).members(3, seed=1), members)
    alike(trained(values[:1], season=season[:1]).members(2, seed=1), members[:2, :1])


def test_a_generator_has_no_density(prior: FieldPrior, trained: Posterior) -> None:
    draws = trained(observed(), season=torch.tensor([10, 11]))
    with pytest.raises(InputError, match="without a density"):
        draws.log_prob(draws.members(1, 0))
    training = Training(steps=1, batch=2, progress=False)
    with pytest.raises(InputError, match="without a density"):
        distill(prior, Mask(), 0.5, spec=SPEC, objective="forward", rounds=1, training=training)
