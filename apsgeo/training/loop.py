"""The fit loop that the prior and the flow share: Adam, warm-up and cosine decay, averaged weights.

Short on purpose. A training problem is two functions: ``step_fn`` gives the loss of one random
batch, ``validate`` scores the current weights on data that is never trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from apsgeo.errors import ApsgeoError, InputError

__all__ = ["EMA", "StepFn", "fit_loop"]

StepFn = Callable[[int, torch.Generator], Tensor]

_MAX_SKIPPED = 20
_FINAL_LR = 0.01


class EMA:
    """Average the trainable parameters of ``module`` exponentially over the steps.

    The decay starts small, ``min(decay, (1 + n) / (10 + n))`` after n updates, so that the first
    average is not held back by the initial weights. Buffers are not averaged.

    Args:
        module: the module whose trainable parameters are followed.
        decay: limiting decay a step, in [0, 1); 0 keeps the last weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise InputError(f"ema_decay is {decay}; give a number in [0, 1)")
        self.decay = decay
        self.updates = 0
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._average = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's present weights into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, parameter in zip(self._average, self._parameters, strict=True):
            average.lerp_(parameter.detach(), 1.0 - decay)

    def weights(self) -> list[Tensor]:
        """Return copies of the averaged weights, in the order of ``module.parameters()``."""
        return [average.clone() for average in self._average]

    @torch.no_grad()
    def load(self, weights: list[Tensor]) -> None:
        """Write ``weights`` into the module."""
        for parameter, weight in zip(self._parameters, weights, strict=True):
            parameter.copy_(weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the module carries the averaged weights."""
        present = [parameter.detach().clone() for parameter in self._parameters]
        self.load(self._average)
        try:
            yield
        finally:
            self.load(present)


def learning_rate(step: int, steps: int, lr: float, warmup: int) -> float:
    """Return the rate of a step: linear over ``warmup`` steps, then a cosine to 1 % of ``lr``."""
    if step < warmup:
        return lr * (step + 1) / warmup
    phase = (step - warmup) / max(1, steps - warmup)
    return lr * (_FINAL_LR + (1.0 - _FINAL_LR) * 0.5 * (1.0 + math.cos(math.pi * phase)))


def fit_loop(
    module: nn.Module,
    step_fn: StepFn,
    *,
    steps: int,
    lr: float = 1e-3,
    warmup: int = 50,
    clip: float = 1.0,
    ema_decay: float = 0.995,
    validate: Callable[[], float] | None = None,
    validate_every: int | None = None,
    seed: int = 0,
    progress: bool = True,
    description: str = "training",
) -> list[dict[str, float]]:
    """Minimise ``step_fn`` over the trainable parameters of ``module`` and keep the best weights.

    With ``validate``, the averaged weights are scored before the first step, every
    ``validate_every`` steps and after the last; the module is left with the best-scored weights.
    The initial weights compete too, so that training never returns something that validates worse
    than what it was given. Without ``validate`` the final average is left in the module.

    Args:
        module: what is trained, in place; returned in evaluation mode.
        step_fn: ``(step, generator) -> scalar loss``. All randomness must come from the generator
            (a CPU one, seeded once by ``seed``): then the same call gives the same weights.
        steps: number of optimiser steps.
        lr: peak learning rate of Adam.
        warmup: steps of linear warm-up (at most a tenth of ``steps`` is used).
        clip: largest norm of the gradient over all parameters.
        ema_decay: see `EMA`.
        validate: ``() -> score``, lower is better, called without gradients, in evaluation mode,
            with the averaged weights in the module. It must draw the same noise at each call.
        validate_every: steps between validations; a tenth of ``steps`` by default.
        seed: seeds the generator that ``step_fn`` is given.
        progress: show a progress bar (on stderr, after two seconds).
        description: the label of the bar.

    Returns:
        One record per validation (with no ``validate``, per ``validate_every`` steps): ``step``
        (updates done so far), ``loss`` (mean since the last record; NaN in the first), ``lr``,
        ``skipped`` (updates left out so far because of a non-finite gradient), and with
        ``validate`` also ``validation`` and ``best`` (1.0 where it beat all earlier records).

    Raises:
        InputError: ``steps`` is negative, or nothing is trainable.
        ApsgeoError: the gradient was not finite for 20 steps in a row.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    if steps < 0 or not trainable:
        raise InputError(
            f"steps={steps} and {len(trainable)} trainable parameters; "
            "give steps >= 0 and a module with parameters that require gradients"
        )
    warmup = min(warmup, steps // 10)
    every = max(1, steps // 10) if validate_every is None else max(1, validate_every)
    optimizer = torch.optim.Adam(trainable, lr=lr)
    generator = torch.Generator().manual_seed(seed)
    ema = EMA(module, ema_decay)
    keeper = _BestKeeper(module, ema, validate)
    bar = tqdm(total=steps, desc=description, disable=not progress, delay=2)
    losses: list[float] = []
    skipped = in_a_row = 0
    with bar:
        bar.set_postfix(keeper.record(0, losses, lr, skipped), refresh=False)
        module.train()
        for step in range(steps):
            rate = learning_rate(step, steps, lr, warmup)
            loss = _update(optimizer, trainable, step_fn, step, generator, rate, clip)
            if math.isfinite(loss):
                losses.append(loss)
                in_a_row = 0
                ema.update()
            else:
                skipped, in_a_row = skipped + 1, in_a_row + 1
                if in_a_row == _MAX_SKIPPED:
                    raise ApsgeoError(
                        f"{description}: no finite gradient in the {_MAX_SKIPPED} steps up to "
                        f"step {step}; lower the learning rate ({lr}) or check the data for "
                        "non-finite values"
                    )
            bar.update()
            if (step + 1) % every == 0 or step + 1 == steps:
                bar.set_postfix(keeper.record(step + 1, losses, rate, skipped), refresh=False)
                losses = []
    ema.load(keeper.best)
    module.eval()
    return keeper.history


def _update(
    optimizer: torch.optim.Optimizer,
    trainable: list[nn.Parameter],
    step_fn: StepFn,
    step: int,
    generator: torch.Generator,
    rate: float,
    clip: float,
) -> float:
    """Do one optimiser step; return the loss, or NaN when the step was left out as non-finite."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss = step_fn(step, generator)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(trainable, clip)
    if not bool(torch.isfinite(norm) & torch.isfinite(loss.detach())):
        return math.nan
    optimizer.step()
    return float(loss.detach())


class _BestKeeper:
    """Score the averaged weights, write the history, remember the best weights."""

    def __init__(self, module: nn.Module, ema: EMA, validate: Callable[[], float] | None) -> None:
        self.module, self.ema, self.validate = module, ema, validate
        self.history: list[dict[str, float]] = []
        self.best = ema.weights()
        self._best_score = math.inf

    def record(self, step: int, losses: list[float], lr: float, skipped: int) -> dict[str, float]:
        """Append a record for ``step``; return what a progress bar should show of it."""
        loss = sum(losses) / len(losses) if losses else math.nan
        entry: dict[str, float] = {"step": step, "loss": loss, "lr": lr, "skipped": skipped}
        shown = {"loss": loss}
        if self.validate is None:
            self.best = self.ema.weights()
        else:
            self.module.eval()
            with self.ema.applied(), torch.no_grad():
                score = float(self.validate())
            self.module.train()
            better = score < self._best_score
            if better:
                self._best_score, self.best = score, self.ema.weights()
            entry |= {"validation": score, "best": float(better)}
            shown["validation"] = score
        self.history.append(entry)
        return shown
