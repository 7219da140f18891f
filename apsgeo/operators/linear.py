"""Linear maps from the nodes of a domain to observations, with their adjoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError

__all__ = [
    "ComposedMap",
    "FunctionMap",
    "IdentityMap",
    "LinearMap",
    "SparseMap",
    "StackedMap",
]

Array = NDArray[np.float64]

_POWER_STEPS = 2000
_POWER_CHANGE = 1e-12  # relative change of the norm at which power iteration stops


class _Linear(torch.autograd.Function):
    """A linear map computed outside torch; its vector-Jacobian product is its adjoint."""

    @staticmethod
    def forward(
        ctx: Any,
        signal: Tensor,
        there: Callable[[Tensor], Tensor],
        back: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.back = back
        return there(signal)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(grads[0]), None, None


class LinearMap(ABC):
    """The linear map A of a measurement y = A x + n, on one domain.

    It takes a signal (batch, channel, node) to observations (batch, channel, observation), and
    treats every channel alike, unless its class says otherwise. Subclasses give the map and its
    transpose on float64 arrays (`_forward`, `_backward`); tensors come and go by `apply` and
    `adjoint`.

    Example:
        >>> import torch
        >>> from apsgeo import Downsample, ImageDomain
        >>> A = Downsample(2).on(ImageDomain(4, 4))
        >>> A
        SparseMap(16 nodes to 4)
        >>> signal = torch.arange(16.0).reshape(1, 1, 16)
        >>> A.apply(signal)
        tensor([[[ 2.5000,  4.5000, 10.5000, 12.5000]]])
        >>> A.adjoint(torch.ones(1, 1, 4)).unique()
        tensor([0.2500])

    Attributes:
        num_nodes: Number of nodes of the domain.
        num_observations: Number of observations of one channel.
        codomain: The domain whose nodes the observations are, or None: then nothing can be
            composed after it.
        is_identity: Whether the observations are the nodes themselves.
        features: Numbers that tell networks this operator from others of its family.
    """

    is_identity: ClassVar[bool] = False
    features: tuple[float, ...] = ()

    def __init__(
        self, num_nodes: int, num_observations: int, codomain: Domain | None = None
    ) -> None:
        self.num_nodes, self.num_observations = int(num_nodes), int(num_observations)
        self.codomain = codomain

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_nodes} nodes to {self.num_observations})"

    @abstractmethod
    def _forward(self, signal: Array) -> Array:
        """Map (channel, node, m) to (channel, observation, m)."""

    @abstractmethod
    def _backward(self, values: Array) -> Array:
        """Map (channel, observation, m) to (channel, node, m) by the transpose."""

    def to_matrix(self, channels: int = 1) -> sp.csr_array | None:
        """Return A (channel * observation, channel * node), or None if it is not sparse."""
        return None

    def response(self, eigenvalues: Array) -> Array:
        """Return the factors (k,) by which A multiplies the Laplacian's eigenfunctions, roughly.

        Conjugate gradients are preconditioned with them, so that they change how many steps it
        takes and not what comes out. A map that knows nothing of them returns zeros.

        Args:
            eigenvalues: Eigenvalues (k,) of the Laplacian on `codomain`.
        """
        return np.zeros_like(eigenvalues)

    def forward(self, columns: Array) -> Array:
        """Map flattened signals (channel * node, m) to (channel * observation, m), float64."""
        parts = columns.reshape(-1, self.num_nodes, columns.shape[1])
        return self._forward(parts).reshape(-1, columns.shape[1])

    def backward(self, columns: Array) -> Array:
        """Map flattened observations (channel * observation, m) to (channel * node, m)."""
        parts = columns.reshape(-1, self.num_observations, columns.shape[1])
        return self._backward(parts).reshape(-1, columns.shape[1])

    def apply(self, signal: Tensor) -> Tensor:
        """Return A x (batch, channel, observation) of signals; differentiable.

        Raises:
            InputError: If the signal is not (batch, channel, node).
        """
        self._check(signal, self.num_nodes, "node")
        return _Linear.apply(signal, self._there, self._back)

    def adjoint(self, values: Tensor) -> Tensor:
        """Return A^T y (batch, channel, node), the transpose without areas; differentiable.

        Raises:
            InputError: If the values are not (batch, channel, observation).
        """
        self._check(values, self.num_observations, "observation")
        return _Linear.apply(values, self._back, self._there)

    def _there(self, signal: Tensor) -> Tensor:
        return _on_tensor(self._forward, signal)

    def _back(self, values: Tensor) -> Tensor:
        return _on_tensor(self._backward, values)

    def _check(self, given: Tensor, count: int, axis: str) -> None:
        if given.ndim != 3 or given.shape[-1] != count:
            raise InputError(
                f"{self!r} was given shape {tuple(given.shape)}; (batch, channel, {axis}) with "
                f"{count} {axis}s was expected."
            )

    def norm(self, channels: int = 1, seed: int = 0) -> float:
        """Return the largest singular value of A, which power iteration on A^T A approaches.

        What is returned is never above it. The iteration ends when a step changes the value by
        less than 1e-12 of it, or after 2000 steps.
        """
        start = np.random.default_rng(seed)
        vector = start.standard_normal((channels * self.num_nodes, 1))
        value = 0.0
        for _ in range(_POWER_STEPS):
            vector /= np.linalg.norm(vector)
            vector = self.backward(self.forward(vector))
            last, value = value, float(np.sqrt(np.linalg.norm(vector)))
            if value == 0.0 or abs(value - last) <= _POWER_CHANGE * value:
                break
        return value

    def scaled(self, scale: Tensor) -> LinearMap:
        """Return A diag(scale), which measures anomalies that were divided by `scale`.

        Args:
            scale: Standard deviations (channel, node) or (node,).

        Raises:
            InputError: If the scale has another shape.
        """
        return ScaledMap(self, scale)


def _on_tensor(function: Callable[[Array], Array], given: Tensor) -> Tensor:
    """Apply a map of (channel, place, m) to (batch, channel, place), in float64, on the CPU."""
    moved = given.detach().to("cpu", torch.float64).permute(1, 2, 0).numpy()
    out = torch.from_numpy(function(moved)).permute(2, 0, 1)
    return out.to(given.device, given.dtype).contiguous()


class IdentityMap(LinearMap):
    """The observations are the nodes."""

    is_identity = True

    def __init__(self, num_nodes: int, codomain: Domain | None = None) -> None:
        super().__init__(num_nodes, num_nodes, codomain)

    def _forward(self, signal: Array) -> Array:
        return signal

    def _backward(self, values: Array) -> Array:
        return values

    def apply(self, signal: Tensor) -> Tensor:
        """Return the signal itself."""
        return signal

    def adjoint(self, values: Tensor) -> Tensor:
        """Return the values themselves."""
        return values

    def response(self, eigenvalues: Array) -> Array:
        """Return one."""
        return np.ones_like(eigenvalues)

    def to_matrix(self, channels: int = 1) -> sp.csr_array:
        """Return the identity."""
        return sp.eye_array(channels * self.num_nodes, format="csr")


class SparseMap(LinearMap):
    """A sparse matrix (observation, node), applied to every channel."""

    def __init__(self, matrix: sp.csr_array, codomain: Domain | None = None) -> None:
        super().__init__(matrix.shape[1], matrix.shape[0], codomain)
        self.matrix = sp.csr_array(matrix)
        self._transpose = self.matrix.T.tocsr()

    def _forward(self, signal: Array) -> Array:
        return np.stack([self.matrix @ part for part in signal])

    def _backward(self, values: Array) -> Array:
        return np.stack([self._transpose @ part for part in values])

    def response(self, eigenvalues: Array) -> Array:
        """Return one where the observations are averages over a domain's cells, else zero."""
        return np.full_like(eigenvalues, float(self.codomain is not None))

    def to_matrix(self, channels: int = 1) -> sp.csr_array:
        """Return the matrix, once for each channel."""
        return sp.block_diag([self.matrix] * channels, format="csr")


class FunctionMap(LinearMap):
    """A map given by two functions, each of (channel, place, m) arrays in float64."""

    def __init__(
        self,
        there: Callable[[Array], Array],
        back: Callable[[Array], Array],
        num_nodes: int,
        num_observations: int,
        codomain: Domain | None = None,
    ) -> None:
        super().__init__(num_nodes, num_observations, codomain)
        self._functions = there, back

    def _forward(self, signal: Array) -> Array:
        return self._functions[0](signal)

    def _backward(self, values: Array) -> Array:
        return self._functions[1](values)


class ScaledMap(LinearMap):
    """The map A diag(scale): each node's value is multiplied by its scale, then measured by A."""

    def __init__(self, inner: LinearMap, scale: Tensor) -> None:
        super().__init__(inner.num_nodes, inner.num_observations, inner.codomain)
        if not 1 <= scale.ndim <= 2 or scale.shape[-1] != inner.num_nodes:
            raise InputError(
                f"scale has shape {tuple(scale.shape)}; (node,) or (channel, node) with "
                f"{inner.num_nodes} nodes was expected."
            )
        self.inner = inner
        self._scale = np.atleast_2d(scale.detach().cpu().double().numpy())[..., None]

    def _forward(self, signal: Array) -> Array:
        return self.inner._forward(signal * self._scale)

    def _backward(self, values: Array) -> Array:
        return self.inner._backward(values) * self._scale

    def response(self, eigenvalues: Array) -> Array:
        """Return the inner map's response times the root mean square of the scale."""
        return self.inner.response(eigenvalues) * np.sqrt(np.mean(self._scale**2))

    def to_matrix(self, channels: int = 1) -> sp.csr_array | None:
        """Return the inner matrix with scaled columns."""
        inner = self.inner.to_matrix(channels)
        if inner is None:
            return None
        scale = np.broadcast_to(self._scale[..., 0], (channels, self.num_nodes))
        return (inner @ sp.diags_array(scale.ravel())).tocsr()


class ComposedMap(LinearMap):
    """Maps one after another, the first applied first."""

    def __init__(self, maps: Sequence[LinearMap]) -> None:
        super().__init__(maps[0].num_nodes, maps[-1].num_observations, maps[-1].codomain)
        self.maps = tuple(maps)

    def _forward(self, signal: Array) -> Array:
        for part in self.maps:
            signal = part._forward(signal)
        return signal

    def _backward(self, values: Array) -> Array:
        for part in reversed(self.maps):
            values = part._backward(values)
        return values

    def response(self, eigenvalues: Array) -> Array:
        """Return the product."""
        return np.prod([part.response(eigenvalues) for part in self.maps], axis=0)

    def to_matrix(self, channels: int = 1) -> sp.csr_array | None:
        """Return the product, where all are sparse."""
        product: sp.csr_array | None = None
        for part in self.maps:
            matrix = part.to_matrix(channels)
            if matrix is None:
                return None
            product = matrix if product is None else (matrix @ product).tocsr()
        return product


class StackedMap(LinearMap):
    """Several maps of one signal, their observations one after another."""

    def __init__(self, maps: Sequence[LinearMap]) -> None:
        super().__init__(maps[0].num_nodes, sum(part.num_observations for part in maps))
        self.maps = tuple(maps)
        self._ends = np.cumsum([part.num_observations for part in maps])[:-1]

    def _forward(self, signal: Array) -> Array:
        return np.concatenate([part._forward(signal) for part in self.maps], axis=1)

    def _backward(self, values: Array) -> Array:
        pieces = np.split(values, self._ends, axis=1)
        total = np.zeros((values.shape[0], self.num_nodes, values.shape[2]))
        for part, piece in zip(self.maps, pieces, strict=True):
            total += part._backward(piece)
        return total

    def to_matrix(self, channels: int = 1) -> sp.csr_array | None:
        """Return the matrices one above another, channel by channel, where all are sparse."""
        found = [part.to_matrix(channels) for part in self.maps]
        matrices = [matrix for matrix in found if matrix is not None]
        if len(matrices) < len(found):
            return None
        blocks = [
            matrix[c * part.num_observations : (c + 1) * part.num_observations]
            for c in range(channels)
            for part, matrix in zip(self.maps, matrices, strict=True)
        ]
        return sp.vstack(blocks, format="csr")

    def join(self, *parts: Tensor | float) -> Tensor:
        """Join the maps' values, masks, or noise_std into those of the whole stack.

        Args:
            parts: One for each map: a number, or a tensor (..., observation) of that map's
                observations.

        Returns:
            A tensor (..., observation) over the observations of all maps, in their order.

        Example:
            >>> from apsgeo import Downsample, Identity, ImageDomain, Stack
            >>> both = Stack((Identity(), Downsample(2))).on(ImageDomain(4, 4))
            >>> both.join(0.5, 0.1).shape
            torch.Size([20])

        Raises:
            InputError: If the number of parts is not that of maps, or a part does not fit its map.
        """
        if len(parts) != len(self.maps):
            raise InputError(f"{len(parts)} parts were given for {len(self.maps)} maps.")
        tensors = []
        for part, given in zip(self.maps, parts, strict=True):
            tensor = torch.as_tensor(given, dtype=torch.float64 if type(given) is float else None)
            if tensor.ndim and tensor.shape[-1] != part.num_observations:
                raise InputError(
                    f"a part has shape {tuple(tensor.shape)}; (..., {part.num_observations}) was "
                    f"expected for {part!r}."
                )
            tensors.append(tensor if tensor.ndim else tensor.expand(part.num_observations))
        lead = torch.broadcast_shapes(*(tensor.shape[:-1] for tensor in tensors))
        return torch.cat([tensor.expand(*lead, tensor.shape[-1]) for tensor in tensors], -1)
