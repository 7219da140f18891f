"""To and from the operators of deepinv, which need not be installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.linear import FunctionMap, LinearMap

__all__ = ["from_physics", "to_physics"]

Array = NDArray[np.float64]


def from_physics(
    physics: Any, domain: Domain, shape: Sequence[int], channels: int = 1
) -> LinearMap:
    """Wrap a `deepinv.physics.LinearPhysics` as a map on a domain.

    Args:
        physics: Object with `A(x)` and `A_adjoint(y)` on tensors (batch, channel, *shape). Its
            noise is not used. It is run in float64, or in the type of its own tensors if it has
            some.
        domain: The domain that signals live on.
        shape: Shape that the physics wants a signal of the domain in, such as (height, width).
        channels: Number of channels of the signals.

    Raises:
        InputError: If the shape does not hold the domain's nodes, or the physics changes the
            number of channels.
    """
    if int(np.prod(shape)) != domain.num_nodes:
        raise InputError(f"shape {tuple(shape)} does not hold the {domain.num_nodes} nodes.")
    tensors = [*physics.buffers(), *physics.parameters()] if hasattr(physics, "buffers") else []
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float64)

    with torch.no_grad():
        example = physics.A(torch.zeros(1, channels, *shape, dtype=dtype))
    if example.shape[1] != channels:
        raise InputError(
            f"the physics turns {channels} channels into {example.shape[1]}; it must keep them."
        )
    inner = tuple(example.shape[2:])

    def run(function: Any, given: Array, place: tuple[int, ...]) -> Array:
        columns = torch.from_numpy(given).permute(2, 0, 1).to(dtype)
        with torch.no_grad():
            out = function(columns.reshape(*columns.shape[:2], *place))
        return out.flatten(2).permute(1, 2, 0).double().numpy()

    count = int(np.prod(inner))
    return FunctionMap(
        lambda signal: run(physics.A, signal, tuple(shape)),
        lambda values: run(physics.A_adjoint, values, inner),
        domain.num_nodes,
        count,
        domain if inner == tuple(shape) else None,
    )


def to_physics(operator: LinearMap, shape: Sequence[int], **options: Any) -> Any:
    """Return a `deepinv.physics.LinearPhysics` that measures as the map does.

    Args:
        operator: A map, such as `GaussianBlur(2.0).on(domain)`.
        shape: Shape of the places of a signal (batch, channel, *shape), such as (height, width).
            Observations are (batch, channel, observation), or have this shape too if they are the
            domain's nodes.
        options: Further arguments of `LinearPhysics`, such as `noise_model`.

    Raises:
        InputError: If deepinv is not installed, or the shape does not hold the map's nodes.
    """
    try:
        from deepinv.physics import LinearPhysics
    except ImportError as error:
        raise InputError("deepinv is not installed; pip install deepinv.") from error
    if int(np.prod(shape)) != operator.num_nodes:
        raise InputError(
            f"shape {tuple(shape)} does not hold the map's {operator.num_nodes} nodes."
        )
    same = operator.codomain is not None and operator.num_observations == operator.num_nodes
    inner = tuple(shape) if same else (operator.num_observations,)

    def there(x: Tensor, **_: Any) -> Tensor:
        return operator.apply(x.flatten(2)).reshape(*x.shape[:2], *inner)

    def back(y: Tensor, **_: Any) -> Tensor:
        return operator.adjoint(y.flatten(2)).reshape(*y.shape[:2], *shape)

    return LinearPhysics(A=there, A_adjoint=back, **options)
