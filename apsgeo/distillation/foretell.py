"""How long a distillation will take, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from apsgeo.diffusion.foretell import minutes, seconds
from apsgeo.distillation.objective import CRPS, Objective
from apsgeo.distillation.sources import Fields, Measuring
from apsgeo.gaussian.draws import Base
from apsgeo.optim.training import Training

__all__ = ["foretell"]


def foretell(
    measuring: Measuring,
    learned: Fields,
    bases: Sequence[Base],
    rounds: int,
    loss: Objective,
    training: Training,
) -> str:
    """Time one group of pairs and one step, and say how long all of them will take.

    It draws from a generator of its own, so that the training is the same without it. Validations,
    and what else runs on the machine later, are not foreseen.
    """
    steps, batch = training.steps or 0, training.batch or 1
    own = replace(measuring, generator=torch.Generator().manual_seed(0), progress=False)
    flow, cells = measuring.flow, measuring.cells(learned, len(bases))
    one = torch.zeros(len(learned.fields), dtype=torch.bool)
    one[cells[0][2]] = True
    few = learned.only(one)
    pairs = own.simulated(few, bases[:1], 1)  # what is prepared once is not in the measured time
    a_group = seconds(lambda: own.simulated(few, bases[:1], 1))
    simulating = a_group * rounds * len(cells) / torch.get_num_threads()

    def step() -> None:
        drawn = pairs.draw(batch, CRPS.members, own.generator).to(flow.device)
        loss(flow, drawn, flow.condition(drawn.start), own.generator).backward()
        flow.zero_grad()

    if steps:
        step()
    stepping = steps * seconds(step) if steps else 0.0
    return (
        f"distill: about {minutes(simulating + stepping)} ({minutes(simulating)} for "
        f"{rounds * len(cells)} groups of pairs, {minutes(stepping)} for {steps} steps)"
    )
