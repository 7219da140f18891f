"""Distillation from real measurements whose truth nobody knows: the paper's unsupervised case."""

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from apsgeo.distillation import sources
from apsgeo.distillation.distill import distill
from apsgeo.distillation.pairs import PairSet, measured_pairs
from apsgeo.errors import GridError, InputError
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.operators import Downsample, Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior, fit_prior
from tests.cases import monthly, numpy_seeded, seed_weights, seeded

NOISE = 0.3
SPEC = CouplingSpec(
    base="white", width=16, depth=1, context=6, local=2, patterns=4, coupling_width=8
)
ANCHORED = CouplingSpec(
    base="anchor", width=8, depth=1, context=4, local=2, patterns=4, coupling_width=4
)
MONTHS = 96


def history() -> xr.DataArray:
    """Smooth fields in K with a season, and some rough."""
    lat, lon, rng = np.linspace(75, -75, 6), np.arange(0, 360, 60.0), numpy_seeded(0)
    wave = np.cos(np.deg2rad(lon)) * np.cos(np.deg2rad(lat))[:, None]
    values = rng.standard_normal((MONTHS, 1, 1)) * wave + 280.0
    values = values + 0.3 * rng.standard_normal(values.shape)
    values += np.cos((np.arange(MONTHS) % 12 + 1) * np.pi / 6)[:, None, None]
    return monthly(values, lat, lon, "K")


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    scales = HybridScales(0.5, 5000.0, 0.05)
    return fit_prior(
        history(),
        scales=scales,
        anchor_scales=scales,
        rank=3,
        training=Training(steps=0, progress=False),
    )


def measured(seed: int = 0) -> xr.DataArray:
    """Half of the cells, with noise."""
    rng, truth = numpy_seeded(seed), history()
    noisy = truth + NOISE * rng.standard_normal(truth.shape).astype("float32")
    return noisy.where(rng.random(truth.shape) < 0.5)


def trained(prior: FieldPrior, steps: int = 150, **options: Any) -> Posterior:
    settings: dict[str, Any] = {"measurements": measured(), "objective": "reverse", "spec": SPEC}
    training = Training(steps, batch=16, lr=5e-3, progress=False)
    return distill(prior, Mask(), NOISE, training=training, **(settings | options))


def divergence(posterior: Posterior, prior: FieldPrior, given: xr.DataArray) -> Tensor:
    """Return log q - log p(x) p(y | x) (member, record), its mean KL up to a constant.

    The spread is set by the errors of held-out fields, not by this divergence, and left out.
    """
    posterior.flow.spread.zero_()
    values, season = prior.records(given).values.float(), prior.season_of(given)
    distribution = posterior(values, season=season)
    seed_weights(1)
    with torch.no_grad():
        members = distribution.sample(torch.Size([8]))
        log_q = distribution.log_prob(members)
        joint = [
            distribution.log_joint(x, lambda fields: prior.anchor.log_prob(fields, season))
            for x in members
        ]
    return log_q - torch.stack(joint)


def test_it_comes_closer_to_the_posterior_of_other_measurements(prior: FieldPrior) -> None:
    other = measured(seed=5)
    before, after = (
        divergence(trained(prior, steps=steps), prior, other).mean(0) for steps in (0, 150)
    )
    exact = trained(prior, spec=ANCHORED, steps=0)
    least = divergence(exact, prior, other).mean(0)  # -log p(y)
    ratio = float((after - least).mean() / (before - least).mean())
    assert 0.0 < ratio < 0.3


def test_the_truth_takes_no_part(prior: FieldPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only measurements are learned from: the pairs have no truth, and each its own mask."""
    made: list[PairSet] = []

    def spy(*arguments: Any, **options: Any) -> PairSet:
        made.append(measured_pairs(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(sources, "measured_pairs", spy)
    posterior = trained(prior, steps=1)
    (pairs,) = made
    assert len(pairs) == posterior.provenance["measurements"] == MONTHS
    assert bool(pairs.fields.isnan().all())
    batch = pairs.draw(8, 4, seeded(0))
    assert len({tuple(mask.flatten().tolist()) for mask in batch.measurement.mask}) > 1
    values = prior.records(measured()).values
    seen = torch.stack([group.mask for group in pairs.groups])
    assert torch.equal(seen, ~values.isnan())


def test_a_base_that_is_exact_stays_exact(prior: FieldPrior) -> None:
    """For a Gaussian prior the anchored flow is the posterior, where path gradients vanish."""
    posterior = trained(prior, spec=ANCHORED, steps=20)
    spread = divergence(posterior, prior, measured(seed=5)).std(0)
    # half-precision draws of the base in training: their noise moves the weights a little
    assert float(spread.max()) < 0.05


@pytest.mark.parametrize("annealing", [0.5, np.nan, np.inf])
def test_a_temperature_below_one_is_refused(prior: FieldPrior, annealing: float) -> None:
    with pytest.raises(InputError, match="at least 1"):
        trained(prior, annealing=annealing)


def test_annealing_changes_what_is_learned(prior: FieldPrior) -> None:
    first, second = (trained(prior, steps=4, annealing=t).flow.state_dict() for t in (1.0, 9.0))
    assert any(not torch.equal(first[name], second[name]) for name in first if name != "spread")


@pytest.mark.parametrize("objective", ["score", "forward", "mixed"])
def test_objectives_that_need_the_truth_are_refused(prior: FieldPrior, objective: str) -> None:
    with pytest.raises(InputError, match="needs the truth"):
        trained(prior, objective=objective)


def test_measurements_that_cannot_be_used_are_refused(prior: FieldPrior) -> None:
    with pytest.raises(InputError, match="measured by a mask"):
        distill(
            prior,
            Downsample(2),
            NOISE,
            measurements=measured(),
            objective="reverse",
            training=Training(progress=False),
        )
    with pytest.raises(InputError, match="one noise_std"):
        distill(
            prior,
            Mask(),
            (0.1, 0.5),
            measurements=measured(),
            objective="reverse",
            training=Training(progress=False),
        )
    empty = measured()
    empty[3] = np.nan
    with pytest.raises(InputError, match="all NaN"):
        trained(prior, measurements=empty)
    infinite = measured()
    infinite[3, 0, 0] = np.inf
    with pytest.raises(InputError, match="infinite"):
        trained(prior, measurements=infinite)
    with pytest.raises(GridError):
        trained(prior, measurements=measured().isel(lat=slice(2)))
