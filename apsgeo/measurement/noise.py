"""The standard deviation of a measurement's noise, and when it can be used."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.errors import InputError

__all__ = ["check_noise"]


def check_noise(
    noise_std: float | Tensor, shape: tuple[int, ...], where: Tensor | None = None
) -> Tensor:
    """Return the noise of each observation, after checking that it can be used.

    Args:
        noise_std: Standard deviation in the units of the data, a number, or one for each
            observation, channel (channel, 1) or measurement (batch, 1, 1).
        shape: Shape that the noise is broadcast to, ([batch,] channel, observation).
        where: (*shape), or what can be broadcast to it, true where the noise matters; everywhere
            by default.

    Raises:
        InputError: If the noise has another shape, or is not finite and above zero where it
            matters.
    """
    noise = torch.as_tensor(noise_std)
    try:
        each = noise.broadcast_to(shape)
    except RuntimeError as error:
        raise InputError(
            f"noise_std has shape {tuple(noise.shape)}; give a number, one an observation "
            f"({shape[-1]},), or one a channel ({shape[-2]}, 1), in the units of the data."
        ) from error
    bad = ~(torch.isfinite(each) & (each > 0))
    count = int((bad if where is None else bad & where).sum())
    if count:
        which = f"={float(noise):g}" if noise.ndim == 0 else f" has {count} such values"
        raise InputError(
            "noise_std must be finite and above zero, in the units of the data, and noise_std"
            f"{which}; for nearly perfect observations give a small number."
        )
    return each
