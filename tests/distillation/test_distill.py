"""What distill and fit_prior promise about training: they touch nothing else, and go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr

from apsgeo import FieldPrior, Mask, Posterior, Training, distill, fit_prior
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.distillation.pairs import PairSet
from apsgeo.errors import InputError
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from tests.cases import numpy_seeded

SPEC = CouplingSpec(width=4, depth=1, context=4, patterns=2, coupling_width=4)


def images() -> xr.DataArray:
    values = numpy_seeded(0).standard_normal((24, 6, 6)).cumsum(1)
    return xr.DataArray(values.astype("float32"), dims=("sample", "y", "x"))


def fitted(steps: int = 2) -> FieldPrior:
    scales = HybridScales()
    return fit_prior(
        images(),
        scales=scales,
        anchor_scales=scales,
        rank=3,
        folds=2,
        spec=DenoiserSpec(levels=3),
        training=Training(steps, progress=False),
    )


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    return fitted()


def distilled(prior: FieldPrior, objective: Any = "score", **options: Any) -> Posterior:
    training = Training(4, batch=4, progress=False, validate_every=1, **options)
    return distill(
        prior, Mask(), 0.5, objective=objective, spec=SPEC, folds=2, rounds=1, training=training
    )


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(123)
    expected = torch.get_rng_state()
    prior = fitted()
    assert torch.equal(torch.get_rng_state(), expected)
    distilled(prior)
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.same_bits
def test_what_is_drawn_before_does_not_matter(prior: FieldPrior) -> None:
    first = distilled(prior)
    torch.manual_seed(7)
    second = distilled(prior)
    states = first.flow.state_dict(), second.flow.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.same_bits
def test_a_killed_distillation_goes_on_to_the_same_bits(
    prior: FieldPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"checkpoint": tmp_path / "run", "log": tmp_path / "log.csv"}
    whole = distilled(prior)
    draw, calls = PairSet.draw, iter(range(2))

    def until_killed(self: PairSet, *arguments: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return draw(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PairSet, "draw", until_killed)
        with pytest.raises(KeyboardInterrupt):
            distilled(prior, **kept)
    again = distilled(prior, **kept)
    expected, found = whole.flow.state_dict(), again.flow.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert str(again.provenance["log"]) == str(whole.provenance["log"])
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 5
    with pytest.raises(InputError, match="checkpoint"):
        distilled(prior, objective="mixed", **kept)


@pytest.mark.parametrize(("name", "value"), [("steps", -1), ("batch", 0), ("patience", 0)])
def test_no_training_of_nothing(name: str, value: int) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(InputError, match=f"{name}={value}"):
        Training(**options)
