"""Training in stages: other teachers than the history, and going on from another posterior."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from apsgeo import FieldPrior, Mask, Posterior, Training, distill
from apsgeo.distillation import distill as module
from apsgeo.errors import InputError, PriorDrawsWarning
from apsgeo.flows.build import CouplingSpec
from apsgeo.flows.flow import Flow
from tests.cases import seeded
from tests.distillation.test_distill import fitted

SPEC = CouplingSpec(width=4, depth=1, context=4, roughness=1)


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    return fitted()


def distilled(prior: FieldPrior, steps: int = 4, **options: Any) -> Posterior:
    training = Training(steps, batch=4, progress=False, validate_every=1)
    return distill(prior, Mask(), 0.5, folds=2, rounds=1, training=training, **options)


def weights(posterior: Posterior) -> dict[str, torch.Tensor]:
    assert isinstance(posterior.method, Flow)
    return posterior.method.state_dict()


@pytest.mark.parametrize("teacher", ["history", "diffusion", "gaussian"])
def test_every_teacher_gives_fields_of_its_own(
    prior: FieldPrior, teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The held-out fields are those of the history whoever teaches."""
    seen = []

    def spy(*arguments: Any) -> Any:
        seen.append(fields_of_prior(*arguments))
        return seen[-1]

    fields_of_prior = module.fields_of_prior
    monkeypatch.setattr(module, "fields_of_prior", spy)
    made = distilled(prior, spec=SPEC, teacher=teacher, steps=1)
    learned, later = seen[0]
    assert prior.history is not None
    past, held = prior.split(prior.history)
    assert torch.equal(later.fields, prior.encode(held))
    is_history = len(learned.fields) == len(prior.encode(past))
    assert is_history == (teacher == "history")
    assert made.provenance["teacher"] == teacher
    assert made.provenance["folds"] == (2 if teacher == "history" else 1)


def test_draws_have_the_variance_of_their_teacher(prior: FieldPrior) -> None:
    """That of 480 draws errs by sqrt(2 / 480) of it, and by less in the mean over pixels."""
    drawn = module.fields_of_prior(prior, None, "gaussian", 1, torch.Generator().manual_seed(0))
    fields = torch.cat([part.fields for part in drawn]).double()
    more = prior.gaussian.sample(torch.zeros(4000, dtype=torch.long), seeded(1)).double()
    assert fields.var(0).mean() == pytest.approx(float(more.var(0).mean()), rel=0.26)


def test_without_the_teacher_the_error_names_those_that_are_there(prior: FieldPrior) -> None:
    alone = replace(prior, diffusion=None)
    with pytest.raises(InputError, match="teacher='diffusion'; here there are history, gaussian"):
        distilled(alone, spec=SPEC, teacher="diffusion")


def test_a_stage_goes_on_from_the_one_before(prior: FieldPrior) -> None:
    first = distilled(prior, spec=SPEC, objective="reverse")
    same = distilled(prior, steps=0, start=first)
    assert same.flow.spec == SPEC
    started = weights(first)
    for name, value in weights(same).items():
        if name != "spread":
            assert torch.equal(value, started[name])
    moved = weights(distilled(prior, start=first, objective="reverse"))
    assert any(not torch.equal(moved[name], started[name]) for name in moved if name != "spread")
    assert same.provenance["start"]["objective"] == "reverse"


def test_another_architecture_is_no_start(prior: FieldPrior) -> None:
    first = distilled(prior, spec=SPEC, steps=0)
    with pytest.raises(InputError, match="use its own"):
        distilled(prior, start=first, spec=replace(SPEC, width=6), steps=0)


def test_a_flow_never_learns_from_draws_of_the_prior_without_a_word(prior: FieldPrior) -> None:
    bare = replace(prior, history=None)
    with pytest.warns(PriorDrawsWarning, match="no history: .* draws of the diffusion prior"):
        distilled(bare, spec=SPEC, steps=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PriorDrawsWarning)
        distilled(bare, spec=SPEC, steps=0, teacher="gaussian")
