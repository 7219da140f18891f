"""How a network is trained, apart from what it is and what it learns from."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Training"]


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        steps: Number of steps of the optimizer; 0 for none.
        batch: Number of fields in a step.
        lr: Peak learning rate.
        patience: Number of validations without a better score after which training stops early;
            None for never. The best weights are kept in any case.
        device: Where networks are trained: "auto", "cpu" or "cuda", there in mixed precision. They
            come back on the CPU.
        progress: Whether to show progress bars.
        checkpoint: Folder that keeps the state of the training: called again alike after it was
            killed, the training goes on from there, to the same bits.
        log: CSV file of the training so far: step, loss, learning rate, validation.
    """

    steps: int = 1500
    batch: int = 16
    lr: float = 1e-3
    patience: int | None = None
    device: str = "auto"
    progress: bool = True
    checkpoint: str | os.PathLike[str] | None = None
    log: str | os.PathLike[str] | None = None
