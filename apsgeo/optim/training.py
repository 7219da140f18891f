"""Settings of the training of any network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch

from apsgeo.errors import InputError

__all__ = ["Training", "seeded"]


@dataclass(frozen=True)
class Training:
    """Settings of the training of any network, such as ``Training(steps=20_000, patience=3)``.

    Attributes:
        steps: Number of steps of the optimizer; 0 for none. None stands for the default of what is
            trained, 1500 in `fit_prior` and 2000 in `distill`.
        batch: Number of fields in a step; None stands for 16 in `fit_prior` and 12 in `distill`.
        lr: Peak learning rate of Adam.
        ema_decay: Limiting decay of the average over the weights of the steps, in [0, 1).
        validate_every: Number of steps between validations; None for a tenth of all steps.
        patience: Number of validations without a better score after which training stops early;
            None for never. The best weights are kept in any case.
        device: Device that trains networks: "auto", "cpu" or "cuda", there in mixed precision where
            that serves. They come back on the CPU.
        progress: Whether to show progress bars.
        checkpoint: Folder that keeps the state of the training: called again alike after it was
            killed, the training goes on from there, to the same bits.
        log: CSV file of the training so far: step, loss, learning rate, validation.

    Raises:
        InputError: If ``steps`` is negative, or ``batch`` or ``patience`` is below 1.
    """

    steps: int | None = None
    batch: int | None = None
    lr: float = 1e-3
    ema_decay: float = 0.995
    validate_every: int | None = None
    patience: int | None = None
    device: str = "auto"
    progress: bool = True
    checkpoint: str | os.PathLike[str] | None = None
    log: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("patience", 1)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise InputError(f"{name}={given}; give at least {least}, or None")

    def filled(self, steps: int, batch: int, settings: Mapping[str, Any]) -> Self:
        """Return the same with some settings, and these defaults where neither gives any.

        Raises:
            TypeError: If a setting has a name that is none of the attributes.
        """
        known = [field.name for field in fields(self)]
        if unknown := [name for name in settings if name not in known]:
            raise TypeError(
                f"unknown argument {unknown[0]!r}; beside its own arguments the function takes "
                f"those of Training: {', '.join(known)}"
            )
        chosen = replace(self, **settings)
        return replace(
            chosen,
            steps=steps if chosen.steps is None else chosen.steps,
            batch=batch if chosen.batch is None else chosen.batch,
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator within the context; after it, the generator is as before.

    Networks draw their initial weights from that generator, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
