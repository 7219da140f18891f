"""Layers of networks that are given a condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apsgeo.errors import InputError

__all__ = ["Film", "embed_condition", "zero"]


class Film(nn.Module):
    """Hold a scale and a shift for each channel, which a condition moves (Perez et al. 2018).

    Args:
        channels: Number of channels.
        cond_dim: Length of the condition, or 0 for none.
    """

    def __init__(self, channels: int, cond_dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.film = nn.Linear(cond_dim, 2 * channels, bias=False) if cond_dim else None
        if self.film is not None:
            zero(self.film)


def embed_condition(
    name: str, embed: nn.Module | None, cond: Tensor | None, cond_dim: int
) -> Tensor | None:
    """Embed the condition `cond (B, cond_dim)` of a network, or return None if it has none.

    Raises:
        InputError: If a condition is missing, or given to a network that was built without.
    """
    if (cond is None) != (embed is None):
        given = "no cond" if cond is None else f"cond of shape {tuple(cond.shape)}"
        raise InputError(
            f"{name}: {given} was given, but the network was built with cond_dim={cond_dim}; "
            "pass a cond exactly if cond_dim is not 0."
        )
    return None if embed is None else embed(cond)


def zero(layer: nn.Module) -> nn.Module:
    """Set all parameters of a layer to zero, and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
