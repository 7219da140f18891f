"""The fit loop that the prior and the flow share: Adam, warm-up and cosine decay, averaged weights.

Short on purpose. A training problem is two functions: ``step_fn`` gives the loss of one random
batch, ``validate`` scores the current weights on data that is never trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from apsgeo.atomic import write_csv
from apsgeo.errors import ApsgeoError, InputError
from apsgeo.optim.checkpoint import (
    load_checkpoint,
    load_module,
    optimizer_from_tensors,
    optimizer_to_tensors,
    save_checkpoint,
)
from apsgeo.optim.distributed import agreed, average_gradients, is_first
from apsgeo.optim.training import Training
from apsgeo.progress import Bar

__all__ = ["EMA", "StepFn", "fit_loop"]

StepFn = Callable[[int, torch.Generator], Tensor]

_MAX_SKIPPED = 20
_WARMUP = 50  # steps
_CLIP = 1.0  # largest norm of the gradient over all parameters
_FINAL_LR = 0.01
_COLUMNS = ("step", "loss", "lr", "skipped", "validation", "best")


class EMA:
    """Average the trainable parameters of ``module`` exponentially over the steps.

    The decay starts small, ``min(decay, (1 + n) / (10 + n))`` after n updates, so that the first
    average is not held back by the initial weights. Buffers are not averaged.

    Args:
        module: The module whose trainable parameters are followed.
        decay: Limiting decay a step, in [0, 1); 0 keeps the last weights.
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

    def restore(self, weights: list[Tensor]) -> None:
        """Take up an average that `weights` returned."""
        self._average = [w.to(p) for w, p in zip(weights, self._parameters, strict=True)]

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
    training: Training,
    *,
    validate: Callable[[], float] | None = None,
    seed: int = 0,
    description: str = "training",
    identity: Mapping[str, Any] | None = None,
) -> list[dict[str, float]]:
    """Minimise ``step_fn`` over the trainable parameters of ``module`` and keep the best weights.

    The learning rate of Adam rises over the first 50 steps (at most a tenth of all), then falls as
    a cosine. Gradients are clipped to norm one. With ``validate``, the averaged weights are scored
    before the first step, at regular steps and after the last; the module is left with the
    best-scored weights. The initial weights compete too, so that training never returns something
    that validates worse than what it was given. Without ``validate`` the final average is left in
    the module. Several processes (`apsgeo.optim.distributed`) average their gradients; the first
    validates for all, and writes.

    Args:
        module: Module to train, in place, on its device; it comes back in evaluation mode.
        step_fn: ``(step, generator) -> scalar loss``. All randomness must come from the generator
            (a CPU one, seeded once by ``seed``): then the same call gives the same weights.
        training: Steps, learning rate, averaging, validations, checkpoint, log and progress bar.
            Its batch and device are the business of ``step_fn``.
        validate: ``() -> score``, lower is better, called without gradients, in evaluation mode,
            with the averaged weights in the module. It must draw the same noise at each call.
        seed: Seed of the generator that ``step_fn`` is given.
        description: Label of the progress bar.
        identity: Marks that tell the run from others of the same training, such as a digest of its
            data, fit for JSON: a checkpoint of another is refused.

    Returns:
        One record per validation (with no ``validate``, as often): ``step``
        (updates done so far), ``loss`` (mean since the last record; NaN in the first), ``lr``,
        ``skipped`` (updates left out so far because of a non-finite gradient), and with
        ``validate`` also ``validation`` and ``best`` (1.0 where it beat all earlier records).

    Raises:
        InputError: If ``steps`` is not given, nothing is trainable, or the checkpoint is of a run
            with other options or of another network.
        ApsgeoError: If the gradient was not finite for 20 steps in a row.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    steps, lr, patience = training.steps, training.lr, training.patience
    if steps is None or not trainable:
        raise InputError(
            f"steps={steps} and {len(trainable)} trainable parameters; "
            "give a number of steps and a module with parameters that require gradients"
        )
    warmup = min(_WARMUP, steps // 10)
    every = max(1, steps // 10 if training.validate_every is None else training.validate_every)
    optimizer = torch.optim.Adam(trainable, lr=lr)
    ema = EMA(module, training.ema_decay)
    keeper = _BestKeeper(module, ema, validate)
    run = _Run(module, optimizer, ema, keeper, torch.Generator().manual_seed(seed))
    options: dict[str, Any] = {
        "steps": steps,
        "lr": lr,
        "warmup": warmup,
        "clip": _CLIP,
        "ema_decay": training.ema_decay,
    }
    options |= {"every": every, "seed": seed, "parameters": sum(p.numel() for p in trainable)}
    options |= {"patience": patience} | dict(identity or {})
    checkpoint = training.checkpoint
    saved = None if checkpoint is None else load_checkpoint(checkpoint, options)
    if saved is not None:
        run.restore(saved)

    def record(rate: float) -> None:
        bar.set_postfix(keeper.record(run.done, run.losses, rate, run.skipped), refresh=False)
        run.losses = []
        if training.log is not None and is_first():
            write_csv(training.log, keeper.history)
        if checkpoint is not None and is_first():
            save_checkpoint(checkpoint, options, run.tensors())

    with Bar(
        total=steps,
        initial=run.done,
        name=description,
        enabled=training.progress and is_first(),
        delay=2,
    ) as bar:
        if saved is None:
            record(lr)
        module.train()
        for step in range(run.done, steps):
            if patience is not None and keeper.stale >= patience:
                break
            rate = learning_rate(step, steps, lr, warmup)
            loss = _update(optimizer, trainable, step_fn, step, run.generator, rate)
            run.count(loss)
            if run.in_a_row == _MAX_SKIPPED:
                raise ApsgeoError(
                    f"{description}: no finite gradient in the {_MAX_SKIPPED} steps up to "
                    f"step {step}; lower the learning rate ({lr}) or check the data for "
                    "non-finite values"
                )
            bar.update()
            if run.done % every == 0 or run.done == steps:
                record(rate)
    ema.load(keeper.best)
    module.eval()
    return keeper.history


@dataclass
class _Run:
    """All that the next step of a run depends on."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA
    keeper: _BestKeeper
    generator: torch.Generator
    done: int = 0
    skipped: int = 0
    in_a_row: int = 0
    losses: list[float] = field(default_factory=list)

    def count(self, loss: float) -> None:
        """Take note of a step, whose loss is NaN if it was left out."""
        self.done += 1
        if math.isfinite(loss):
            self.losses.append(loss)
            self.in_a_row = 0
            self.ema.update()
        else:
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1

    def tensors(self) -> dict[str, Tensor]:
        """Return the state, as it is after a record: then no loss waits to be averaged."""
        columns, table = self.keeper.table()
        counts = [self.done, self.skipped, self.in_a_row, self.ema.updates]
        named: dict[str, Mapping[str, Tensor]] = {
            "module": self.module.state_dict(),
            "optimizer": optimizer_to_tensors(self.optimizer),
            "average": _numbered(self.ema.weights()),
            "best": _numbered(self.keeper.best),
            "history": {name: table[:, index] for index, name in enumerate(columns)},
            "run": {"counts": torch.tensor(counts), "generator": self.generator.get_state()},
        }
        return {f"{part}/{name}": t for part, each in named.items() for name, t in each.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the state of `tensors`."""
        named: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            part, name = key.split("/", 1)
            named.setdefault(part, {})[name] = tensor
        load_module(self.module, named["module"])
        optimizer_from_tensors(self.optimizer, named.get("optimizer", {}))
        counts = named["run"]["counts"].tolist()
        self.done, self.skipped, self.in_a_row, self.ema.updates = counts
        self.ema.restore(_in_order(named["average"]))
        self.keeper.restore(named["history"], _in_order(named["best"]))
        self.generator.set_state(named["run"]["generator"])


def _numbered(tensors: list[Tensor]) -> dict[str, Tensor]:
    return {str(index): tensor for index, tensor in enumerate(tensors)}


def _in_order(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensors[str(index)] for index in range(len(tensors))]


def _update(
    optimizer: torch.optim.Optimizer,
    trainable: list[nn.Parameter],
    step_fn: StepFn,
    step: int,
    generator: torch.Generator,
    rate: float,
) -> float:
    """Do one optimiser step; return the loss, or NaN when the step was left out as non-finite."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss = step_fn(step, generator)
    loss.backward()
    loss = average_gradients(trainable, loss.detach())
    norm = nn.utils.clip_grad_norm_(trainable, _CLIP)
    if not bool(torch.isfinite(norm) & torch.isfinite(loss)):
        return math.nan
    optimizer.step()
    return float(loss)


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
                score = agreed(float(self.validate()), self.best[0])
            self.module.train()
            better = score < self._best_score
            if better:
                self._best_score, self.best = score, self.ema.weights()
            entry |= {"validation": score, "best": float(better)}
            shown["validation"] = score
        self.history.append(entry)
        return shown

    @property
    def stale(self) -> int:
        """Number of validations since the last that was a new best."""
        flags = [bool(entry.get("best", 1.0)) for entry in reversed(self.history)]
        return flags.index(True) if True in flags else len(flags)

    def table(self) -> tuple[list[str], Tensor]:
        """Return the history as names of columns and numbers (record, column), float64."""
        columns = list(self.history[0])
        rows = [[entry[name] for name in columns] for entry in self.history]
        return columns, torch.tensor(rows, dtype=torch.float64)

    def restore(self, history: Mapping[str, Tensor], best: list[Tensor]) -> None:
        """Take up the columns of `table`, and the best weights."""
        columns = {name: history[name].tolist() for name in _COLUMNS if name in history}
        columns |= {name: [int(count) for count in columns[name]] for name in ("step", "skipped")}
        rows = zip(*columns.values(), strict=True)
        self.history = [dict(zip(columns, row, strict=True)) for row in rows]
        self.best = best
        scores = [entry["validation"] for entry in self.history if entry.get("best")]
        self._best_score = min(scores, default=math.inf)
