"""What networks on a condition share."""

from __future__ import annotations

from torch import Tensor, nn

from apsgeo.errors import InputError

__all__ = ["embed_condition", "zero"]


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
