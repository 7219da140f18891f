"""Signals as columns of float64 for numpy, and symmetric maps computed there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["columns_of", "signal_of", "symmetric"]


class _SymmetricMap(torch.autograd.Function):
    """A symmetric linear map computed outside torch; its vector-Jacobian product is itself."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.linear = apply
        return apply(signal)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.linear(grads[0]), None


def symmetric(signal: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a symmetric linear map that is computed outside torch; differentiable."""
    return _SymmetricMap.apply(signal, apply)


def columns_of(signal: Tensor) -> np.ndarray:
    """Flatten (batch, channel, node) to float64 columns (channel * node, batch)."""
    return signal.detach().to("cpu", torch.float64).reshape(len(signal), -1).numpy().T


def signal_of(columns: np.ndarray, like: Tensor) -> Tensor:
    """Undo `columns_of`, with the dtype, device and trailing shape of `like`."""
    flat = torch.from_numpy(np.ascontiguousarray(columns.T))
    return flat.reshape(-1, *like.shape[-2:]).to(like.device, like.dtype)
