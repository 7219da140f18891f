"""One model for a family of operators and a range of noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import apsgeo
from apsgeo.distillation.distill import distill
from apsgeo.errors import InputError
from apsgeo.flows.build import CouplingSpec, SpectralSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Measurement
from apsgeo.operators import (
    Block,
    Downsample,
    GaussianBlur,
    GaussianBlurs,
    Mask,
    OneOf,
    Operator,
    from_config,
)
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior, fit_prior
from tests.cases import numpy_seeded, rounding, seeded

SPEC = CouplingSpec(
    base="anchor", width=8, depth=1, context=4, local=2, patterns=4, coupling_width=4
)
FAMILY = OneOf((Mask(0.1, 0.5), Downsample(2), Downsample(4), GaussianBlurs(0.8, 2.0)))
MEMBERS: list[Operator] = [Block(), Downsample(2), Downsample(4), GaussianBlur(1.3)]
NOISE = (0.05, 0.5)


def images() -> xr.DataArray:
    """Smooth images of 8 x 8 pixels, standard deviation about 2 about 5."""
    rng = numpy_seeded(0)
    waves = np.stack([np.cos(np.arange(8) * k * np.pi / 8) for k in range(3)])
    amplitude = rng.standard_normal((60, 3, 3)) / (1.0 + np.arange(3))
    values = np.einsum("tab,ai,bj->tij", amplitude, waves, waves)
    values = 5.0 + 2.0 * values + 0.3 * rng.standard_normal(values.shape)
    return xr.DataArray(values.astype("float32"), dims=("sample", "y", "x"), name="brightness")


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    scales = HybridScales(0.5, 3.0, 0.05)
    return fit_prior(
        images(),
        scales=scales,
        anchor_scales=scales,
        rank=6,
        training=Training(steps=0, progress=False),
    )


def distilled(prior: FieldPrior, steps: int, **options: Any) -> Posterior:
    settings: dict[str, Any] = {"spec": SPEC, "rounds": 3}
    training = Training(steps, batch=4, progress=False)
    return distill(prior, FAMILY, NOISE, training=training, **(settings | options))


@pytest.fixture(scope="module")
def untrained(prior: FieldPrior) -> Posterior:
    made = distilled(prior, steps=0)
    made.flow.spread.zero_()
    return made


def measured(posterior: Posterior, member: Operator, noise_std: float) -> Tensor:
    generator = seeded(0)
    fields = torch.from_numpy(images().values[:2]).reshape(2, 1, -1)
    y = posterior.family.on(member).apply(fields)
    y = y + noise_std * torch.randn(y.shape, generator=generator)
    seen = member.simulate(posterior.domain, generator)
    return y.masked_fill(~seen, torch.nan)


@pytest.mark.parametrize("noise_std", NOISE)
@pytest.mark.parametrize("member", MEMBERS, ids=repr)
def test_untrained_it_is_the_exact_posterior_of_each_member(
    prior: FieldPrior, untrained: Posterior, member: Operator, noise_std: float
) -> None:
    """Against dense linear algebra in the units of the data: mean and density."""
    made = untrained
    y = measured(made, member, noise_std)
    with torch.no_grad():
        found = made(y, noise_std=noise_std, operator=member)
        centre = found.from_noise(torch.zeros(1, 2, found.noise_dim))[0, :, 0].double()
        truth = torch.from_numpy(images().values[:2]).reshape(2, 1, -1)
        log_q = found.log_prob(truth).double()
    every = np.arange(64)
    std, mean = (part[0, 0].double().numpy() for part in (prior.normals.std, prior.normals.mean))
    covariance = std[:, None] * prior.anchor.annual.covariance(every, every) * std
    matrix = member.on(prior.domain).forward(np.eye(64))
    for i in range(2):
        values = y[i, 0].double().numpy()
        seen = ~np.isnan(values)
        gram = (matrix @ covariance @ matrix.T)[seen][:, seen] + noise_std**2 * np.eye(seen.sum())
        gain = np.linalg.solve(gram, matrix[seen] @ covariance).T
        expected = mean + gain @ (values - matrix @ mean)[seen]
        after = torch.from_numpy(covariance - gain @ matrix[seen] @ covariance)
        # standardized, and turned back, in float32; the gain is that of the observations
        error = rounding(4, values[seen]) * abs(gain).sum(1).max() + rounding(4, expected)
        np.testing.assert_allclose(centre[i].numpy(), expected, rtol=0.0, atol=error)
        law = torch.distributions.MultivariateNormal(torch.from_numpy(expected), after)
        exact = float(law.log_prob(truth[i, 0].double()))
        assert float(log_q[i]) == pytest.approx(exact, abs=1e-2)


@pytest.mark.same_bits
@pytest.mark.parametrize("objective", ["score", "forward", "reverse"])
def test_it_is_trained_on_all_members_and_saved(
    prior: FieldPrior, objective: Any, tmp_path: Path
) -> None:
    made = distilled(prior, objective=objective, steps=4)
    again = apsgeo.load(made.save(tmp_path / "model"))
    assert isinstance(again, Posterior)
    assert again.operator == FAMILY
    for member in MEMBERS:
        y = measured(made, member, 0.1)
        first, second = (
            each(y, noise_std=0.1, operator=member).members(3, 0) for each in (made, again)
        )
        assert bool(torch.isfinite(first).all())
        assert torch.equal(first, second)


def test_features_tell_members_apart() -> None:
    assert FAMILY.features(Block()) == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert FAMILY.features(Downsample(4)) == (0.0, 0.0, 1.0, 0.0, 0.0)
    assert FAMILY.features(GaussianBlur(0.8)) == (0.0, 0.0, 0.0, 1.0, -1.0)
    assert FAMILY.features(GaussianBlur(2.0)) == (0.0, 0.0, 0.0, 1.0, 1.0)
    assert Mask().features(Block()) == ()


def test_simulated_members_and_noise_are_in_the_family(untrained: Posterior) -> None:
    generator = seeded(0)
    drawn = [FAMILY.draw(generator) for _ in range(40)]
    assert all(FAMILY.includes(each) for each in (*drawn, *FAMILY.typical(), *MEMBERS))
    assert len({type(each) for each in drawn}) == 3
    assert not FAMILY.includes(GaussianBlur(2.5))
    assert from_config(FAMILY.to_config()) == FAMILY
    assert float(untrained.noise_std) == pytest.approx((NOISE[0] * NOISE[1]) ** 0.5)


def test_what_is_not_of_the_family_is_refused(prior: FieldPrior, untrained: Posterior) -> None:
    made = untrained
    y = measured(made, Downsample(2), 0.1)
    with pytest.raises(InputError, match="not of the family"):
        made(y, operator=GaussianBlur(9.0))
    with pytest.raises(InputError, match="operator="):
        made(y)
    with pytest.raises(InputError, match=r"\(channel, observation\)"):
        made(y, operator=Downsample(4))
    for bad in ((0.5, 0.1), (0.0, 1.0), (1.0,), torch.ones(16)):
        with pytest.raises(InputError, match="noise_std"):
            distill(prior, FAMILY, bad, spec=SPEC, training=Training(steps=0, progress=False))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="CouplingSpec"):
        distilled(prior, spec=SpectralSpec(patterns=4), steps=0)
    with pytest.raises(InputError, match="two positive lengths"):
        GaussianBlurs(2.0, 1.0)


def test_measurements_made_elsewhere_are_told_of_the_family(untrained: Posterior) -> None:
    """In double precision, through the family's own operator or as plain values of nodes."""
    mask = Block()
    y = measured(untrained, mask, 0.1)
    plain = Measurement.of(y.double(), 0.1)
    found = untrained.posterior(plain).members(2, 0)
    expected = untrained(y, noise_std=0.1, operator=mask).members(2, 0)
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-4)
    coarse = measured(untrained, Downsample(2), 0.1).double()
    through = Measurement.of(coarse, 0.1, untrained.family.on(Downsample(2)))
    assert bool(torch.isfinite(untrained.posterior(through).members(2, 0)).all())
    foreign = Measurement.of(coarse, 0.1, Downsample(2).on(untrained.domain))
    with pytest.raises(InputError, match="does not say which"):
        untrained.posterior(foreign)
