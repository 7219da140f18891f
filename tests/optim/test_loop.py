"""The fit loop: determinism, selection by validation, averaging, non-finite gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apsgeo.errors import ApsgeoError, InputError
from apsgeo.optim.loop import EMA, StepFn, fit_loop, learning_rate
from apsgeo.optim.training import Training
from tests.cases import rounding

TARGET = torch.tensor([1.0, -2.0, 3.0])


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


def noisy_quadratic(model: Any) -> StepFn:
    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(3, generator=generator)
        return ((model.weight - TARGET - 0.1 * noise) ** 2).sum()

    return step_fn


def distance(model: Line) -> float:
    return float(((model.weight.detach() - TARGET) ** 2).sum())


def fit(
    model: Line,
    validate: Callable[[], float] | None = None,
    identity: dict[str, str] | None = None,
    seed: int = 0,
    **options: Any,
) -> list[dict[str, float]]:
    defaults: dict[str, Any] = {"steps": 200, "lr": 0.1, "ema_decay": 0.9, "progress": False}
    training = Training(**(defaults | options))
    return fit_loop(
        model, noisy_quadratic(model), training, validate=validate, identity=identity, seed=seed
    )


def test_minimises_and_returns_the_best_validated_weights() -> None:
    model = Line()
    history = fit(model, validate=lambda: distance(model), validate_every=20)
    best = min(record["validation"] for record in history)
    assert distance(model) == pytest.approx(best, rel=rounding(4))
    assert best < 1e-2
    assert [record["step"] for record in history] == list(range(0, 201, 20))
    last_best = [record for record in history if record["best"]][-1]
    assert last_best["validation"] == best


@pytest.mark.same_bits
def test_same_seed_same_weights_other_seed_other_weights() -> None:
    models = [Line(), Line(), Line()]
    histories = [fit(m, seed=seed) for m, seed in zip(models, (3, 3, 4), strict=True)]
    assert torch.equal(models[0].weight, models[1].weight)
    assert histories[0][1:] == histories[1][1:]
    assert not torch.equal(models[0].weight, models[2].weight)


def test_training_that_worsens_validation_changes_nothing() -> None:
    model = Line()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([0.3, 0.1, -0.2]))
    before = model.weight.detach().clone()
    history = fit(model, validate=lambda: -distance(model))
    assert torch.equal(model.weight, before)
    assert [record["best"] for record in history] == [1.0] + [0.0] * (len(history) - 1)
    assert not model.training


def test_average_follows_its_recursion() -> None:
    model = Line()
    ema = EMA(model, 0.5)
    expected = 0.0
    for update in range(1, 12):
        with torch.no_grad():
            model.weight.fill_(float(update))
        ema.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    with ema.applied():
        assert float(model.weight[0].detach()) == pytest.approx(expected, rel=1e-6)
    assert float(model.weight[0].detach()) == 11.0


def test_without_validation_the_average_is_returned() -> None:
    model = Line()
    history = fit(model, ema_decay=0.0)
    assert "validation" not in history[-1]
    # The noise floor of the target itself: three components of sd 0.1, and a small final rate.
    assert distance(model) < 3 * 0.1**2


def test_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(step, 100, 2.0, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[10] == 2.0
    assert rates[99] < 0.03
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_one_non_finite_gradient_is_skipped_many_stop() -> None:
    model = Line()
    good = noisy_quadratic(model)

    def sometimes(step: int, generator: torch.Generator) -> Tensor:
        loss = good(step, generator)
        return loss * math.inf if step == 5 else loss

    history = fit_loop(model, sometimes, Training(steps=200, lr=0.1, ema_decay=0.9, progress=False))
    assert history[-1]["skipped"] == 1
    assert distance(model) < 1e-2

    def never(step: int, generator: torch.Generator) -> Tensor:
        return model.weight.sum() * math.nan

    with pytest.raises(ApsgeoError, match="no finite gradient"):
        fit_loop(model, never, Training(steps=100, progress=False))


@pytest.mark.same_bits
@pytest.mark.parametrize("killed_at", [3, 40, 137])
@pytest.mark.parametrize("validated", [True, False])
def test_a_killed_run_goes_on_to_the_same_bits(
    tmp_path: Path, killed_at: int, validated: bool
) -> None:
    def run(model: Line, name: str, stop: int | None = None) -> list[dict[str, float]]:
        good = noisy_quadratic(model)

        def step_fn(step: int, generator: torch.Generator) -> Tensor:
            if step == stop:
                raise KeyboardInterrupt
            loss = good(step, generator)
            return loss * math.nan if step == 5 else loss

        return fit_loop(
            model,
            step_fn,
            Training(
                steps=150,
                lr=0.1,
                ema_decay=0.9,
                validate_every=20,
                progress=False,
                checkpoint=tmp_path / name,
                log=tmp_path / f"{name}.csv",
            ),
            validate=(lambda: distance(model)) if validated else None,
        )

    whole, killed, again = Line(), Line(), Line()
    expected = run(whole, "whole")
    with pytest.raises(KeyboardInterrupt):
        run(killed, "killed", stop=killed_at)
    found = run(again, "killed")
    assert torch.equal(again.weight, whole.weight)
    assert str(found) == str(expected)  # the first loss is NaN
    logs = [(tmp_path / f"{name}.csv").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert len(logs[0].splitlines()) == 1 + len(expected)
    # Finished, it is left as it is.
    assert str(run(Line(), "killed", stop=0)) == str(expected)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    fit(Line(), checkpoint=tmp_path / "run")
    with pytest.raises(InputError, match="lr=0.1, this one has lr=0.2"):
        fit(Line(), checkpoint=tmp_path / "run", lr=0.2)
    with pytest.raises(InputError, match="data=None, this one has data='other'"):
        fit(Line(), checkpoint=tmp_path / "run", identity={"data": "other"})
    other = nn.Sequential(Line())
    with pytest.raises(InputError, match="does not fit the network"):
        fit_loop(
            other,
            noisy_quadratic(other[0]),
            Training(steps=200, lr=0.1, ema_decay=0.9, progress=False, checkpoint=tmp_path / "run"),
        )


def test_patience_stops_early_and_for_good(tmp_path: Path) -> None:
    """Worse from the third record on: of patience two, the records are 0, 1, and two more."""
    scores = iter([5.0, 4.0, 4.5, 4.0, 3.0, 3.0])
    model = Line()
    run: dict[str, Any] = {"validate_every": 10, "patience": 2, "checkpoint": tmp_path / "run"}
    history = fit(model, validate=lambda: next(scores), **run)
    assert [record["validation"] for record in history] == [5.0, 4.0, 4.5, 4.0]
    assert [record["best"] for record in history] == [1.0, 1.0, 0.0, 0.0]
    again = Line()
    assert str(fit(again, validate=lambda: next(scores), **run)) == str(history)
    assert torch.equal(again.weight, model.weight)
    # Without validation there is nothing to be patient about.
    assert fit(Line(), patience=1)[-1]["step"] == 200
    with pytest.raises(InputError, match="patience=0"):
        fit(Line(), patience=0)


def test_steps_are_adams_on_clipped_gradients() -> None:
    """Against the recursion of Kingma & Ba (2015), with gradients far above and below the clip."""
    model, clip, steps = Line(), 1.0, 8
    scales = torch.tensor([100.0, 0.01, 3.0, 1e-3, 50.0, 0.2, 1.0, 1e4])

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        return scales[step] * (model.weight * TARGET).sum()

    fit_loop(model, step_fn, Training(steps=steps, lr=0.1, ema_decay=0.0, progress=False))
    weight = first = second = torch.zeros(3, dtype=torch.float64)
    for step in range(steps):
        gradient = (scales[step] * TARGET).double()
        gradient = gradient * min(1.0, clip / (float(gradient.norm()) + 1e-6))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        rate = learning_rate(step, steps, 0.1, 0)
        weight = weight - rate * mean / (square.sqrt() + 1e-8)
    torch.testing.assert_close(model.weight.detach().double(), weight, rtol=1e-5, atol=1e-6)


def test_nothing_to_train_and_bad_arguments() -> None:
    with pytest.raises(InputError, match="trainable"):
        fit_loop(nn.Identity(), lambda s, g: torch.zeros(()), Training(steps=1, progress=False))
    with pytest.raises(InputError, match="ema_decay"):
        EMA(Line(), 1.0)


def test_settings_given_by_name_go_before_the_object_and_the_defaults() -> None:
    training = Training(lr=0.5, batch=3).filled(steps=9, batch=8, settings={"batch": 5})
    assert (training.steps, training.batch, training.lr) == (9, 5, 0.5)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(TypeError, match="'stps'.*steps, batch, lr"):
        Training().filled(steps=9, batch=8, settings={"stps": 0})
