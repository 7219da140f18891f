"""What every domain offers to priors, flows and networks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apsgeo.domains.symmetry import Symmetries, Symmetry
from apsgeo.errors import InputError

if TYPE_CHECKING:
    from torch_geometric.data import Batch, Data

__all__ = ["EARTH_RADIUS_KM", "Domain", "Geometry", "check_kernel_size", "with_sign"]

EARTH_RADIUS_KM = 6371.0


def check_kernel_size(kernel_size: int) -> None:
    """Refuse kernels that have no middle.

    Raises:
        InputError: If `kernel_size` is even or not positive.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"conv: kernel_size {kernel_size} must be odd and positive.")


def with_sign(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make each column's entry of largest magnitude positive."""
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return vectors * np.sign(largest)


@dataclass(frozen=True)
class Reduced:
    """Cells of about equal size, each a union of a domain's.

    Attributes:
        spread: Matrix (node, cell), one where a node belongs to a cell, else zero.
        positions: Positions (cell, d).
        areas: Areas (cell,).
        stiffness: Stiffness (cell, cell), as that of `Domain`.
    """

    spread: scipy.sparse.csr_array
    positions: NDArray[np.float64]
    areas: NDArray[np.float64]
    stiffness: scipy.sparse.csc_array


class Geometry(NamedTuple):
    """The tensors of a domain, on a device; see those of `Domain` by the same names."""

    positions: Tensor
    areas: Tensor
    edge_index: Tensor
    edge_length: Tensor
    colouring: Tensor
    features: Tensor


class Domain(ABC):
    r"""Represent where a signal lives.

    A signal is a tensor `(batch, channel, node)`. A domain knows the geometry of the nodes, and
    lends the layers that networks are built from, so that a network knows no domain.

    The Laplacian is :math:`\Delta = -\mathrm{diag}(a)^{-1} S` with the cell areas :math:`a` and
    the finite-volume stiffness :math:`S`, whose off-diagonal entries are minus the length of the
    shared face over the distance of the two nodes (Eymard, Gallouët & Herbin 2000, *Finite volume
    methods*, section 9).
    """

    kind: ClassVar[str]
    """The name of this kind of domain in saved configurations."""
    radius_km: float
    """Kilometres per unit of length, by which lengths in radians become kilometres."""

    @property
    @abstractmethod
    def num_nodes(self) -> int:
        """The number of nodes `N`."""

    @property
    @abstractmethod
    def positions(self) -> Tensor:
        """The nodes' positions `(N, d)`, float64; points on the unit sphere for a sphere."""

    @property
    @abstractmethod
    def areas(self) -> Tensor:
        """The cells' areas `(N,)`, float64, in steradians on a sphere; their sum is its area."""

    @property
    @abstractmethod
    def edge_index(self) -> Tensor:
        """The neighbours `(2, E)`, int64; each edge stands in it once in either direction."""

    @property
    @abstractmethod
    def edge_length(self) -> Tensor:
        """The geodesic lengths `(E,)` of the edges, float64, in radians on a sphere."""

    @property
    @abstractmethod
    def stiffness(self) -> scipy.sparse.csc_array:
        """The stiffness `(N, N)`, float64: symmetric, positive semi-definite, S 1 = 0."""

    @property
    def reduced(self) -> Reduced:
        """The cells without those that are far narrower than most, which are merged.

        On them powers of the Laplacian are well conditioned. Most domains have no such cells.
        """
        whole = scipy.sparse.eye_array(self.num_nodes, format="csr")
        return Reduced(whole, self.positions.numpy(), self.areas.numpy(), self.stiffness)

    @property
    @abstractmethod
    def colouring(self) -> Tensor:
        """A two-colouring `(N,)` of the nodes, bool, that couplings alternate between."""

    @property
    @abstractmethod
    def features(self) -> Tensor:
        """Static positional features `(F, N)` for networks, float32, of order one."""

    @cached_property
    def symmetries(self) -> Symmetries:
        """What leaves the domain as it is; none, where it knows of none."""
        found = self._mirrors_and_turns().items()
        areas = self.areas.numpy()
        return Symmetries({name: s for name, s in found if s.keeps(areas, self.stiffness)})

    def _mirrors_and_turns(self) -> dict[str, Symmetry]:
        """Return what may leave the domain as it is: what does not is left out."""
        return {}

    @abstractmethod
    def conv(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Module:
        """Make a convolution from `(B, in_channels, N)` to `(B, out_channels, N)`."""

    @property
    @abstractmethod
    def can_coarsen(self) -> bool:
        """Whether the domain is large enough for `coarse`, `pool` and `unpool`."""

    @abstractmethod
    def coarse(self) -> "Domain":
        """Return the domain on which `pool` lands.

        Raises:
            InputError: If the domain cannot be coarsened.
        """

    @abstractmethod
    def pool(self) -> nn.Module:
        """Make the area-weighted mean from `(B, C, N)` to `(B, C, coarse().num_nodes)`."""

    @abstractmethod
    def unpool(self) -> nn.Module:
        """Make the piecewise constant map from `coarse()` back; `pool` after it is the identity."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Return the `kind` and the arguments that rebuild the domain, fit for JSON."""

    def __eq__(self, other: object) -> bool:
        """Whether both domains have the same nodes in the same order."""
        return self._same(other) if isinstance(other, type(self)) else NotImplemented

    @abstractmethod
    def _same(self, other: Any) -> bool:
        """Tell whether another domain of this class has the same nodes in the same order."""

    def __hash__(self) -> int:
        """Hash kind and number of nodes, in agreement with equality."""
        return hash((self.kind, self.num_nodes))

    @cached_property
    def _eigenbases(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}

    def eigenbasis(self, k: int) -> tuple[Tensor, Tensor]:
        r"""Compute the `k` smoothest eigenfunctions of :math:`-\Delta`, once for each `k`.

        They solve :math:`S v = \lambda \, \mathrm{diag}(a) \, v`, or are those of the continuous
        Laplacian where the domain says so, and are orthonormal by area:
        :math:`V^T \mathrm{diag}(a) V = I`. The sign is such that an eigenfunction's entry of
        largest magnitude is positive.

        Args:
            k: Number of eigenfunctions, from 1 to `num_nodes`.

        Returns:
            The eigenvalues `(k,)`, ascending, and the eigenfunctions `(N, k)`, both float64.

        Raises:
            InputError: If `k` is out of range.
        """
        if not 1 <= k <= self.num_nodes:
            raise InputError(f"eigenbasis(k={k}): choose k from 1 to {self.num_nodes}.")
        if k not in self._eigenbases:
            self._eigenbases[k] = self._compute_eigenbasis(k)
        return self._eigenbases[k]

    def _compute_eigenbasis(self, k: int) -> tuple[Tensor, Tensor]:
        root = np.sqrt(self.areas.numpy())
        scale = scipy.sparse.diags_array(1 / root)
        symmetric = (scale @ self.stiffness @ scale).tocsc()
        if 4 * k >= self.num_nodes:  # Lanczos needs room: few nodes are solved densely
            values, vectors = scipy.linalg.eigh(symmetric.toarray(), subset_by_index=(0, k - 1))
        else:
            start = np.random.default_rng(0).standard_normal(self.num_nodes)
            # the shift is below the spectrum, so that the matrix to factor is definite, and of its
            # scale whatever the unit of length: -0.1 on the unit sphere
            shift = -0.4 * np.pi / self.areas.sum().item()
            values, vectors = scipy.sparse.linalg.eigsh(symmetric, k, sigma=shift, v0=start)
        order = np.argsort(values)
        vectors = with_sign(vectors[:, order] / root[:, None])
        return torch.from_numpy(values[order].clip(min=0)), torch.from_numpy(vectors)

    def continuous_eigenbasis(self, k: int) -> tuple[Tensor, Tensor] | None:
        r"""Evaluate `k` eigenfunctions of the continuous :math:`-\Delta` at the nodes, if known.

        They are functions of the place alone: the same ones, in the same order and with the same
        signs, whatever the resolution. They are orthonormal on the whole domain, and at the nodes
        up to the error of the quadrature.

        Args:
            k: Number of eigenfunctions, the smoothest ones.

        Returns:
            The eigenvalues `(k,)`, ascending, and the eigenfunctions `(N, k)`, both float64; None
            where there is no closed form.
        """
        return None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Geometry:
        """Return the domain's tensors on a device, for networks and losses of your own.

        The domain itself stays on the CPU, where its sparse matrices are. The layers that it
        lends hold what they need, and move as modules do.

        Args:
            device: Device, as torch names it.
            dtype: Type that floating-point tensors are given; by default they keep theirs, which is
                float64, and float32 for the features.
        """
        tensors = (getattr(self, name) for name in Geometry._fields)
        return Geometry(
            *(x.to(device, dtype if x.is_floating_point() else x.dtype) for x in tensors)
        )

    def to_data(self, signal: Tensor) -> "Data":
        """Convert one signal to a PyG graph with `x`, `pos`, `edge_index` and `edge_attr`.

        Args:
            signal: Values `(C, N)`.

        Returns:
            Data with `x (N, C)`, `pos (N, d)`, `edge_index (2, E)`, `edge_attr (E, 1)` (lengths);
            all on the signal's device.

        Raises:
            InputError: If the signal's shape is not `(C, N)`.
        """
        if signal.ndim != 2 or signal.shape[1] != self.num_nodes:
            raise InputError(
                f"to_data: the signal has shape {tuple(signal.shape)}, but (channel, node) = "
                f"(C, {self.num_nodes}) was expected; convert the records of a batch one by one."
            )
        from torch_geometric.data import Data  # seconds to import, and rarely used

        return Data(
            x=signal.T,
            pos=self.positions.to(signal),
            edge_index=self.edge_index.to(signal.device),
            edge_attr=self.edge_length.to(signal)[:, None],
        )

    def from_data(self, data: "Data") -> Tensor:
        """Return the signal `(C, N)` of a graph that `to_data` made.

        Raises:
            InputError: If the graph has no `x`, or not one row of it for each node.
        """
        return self._signals("from_data: the graph", data.x, 1)[0]

    def from_batch(self, batch: "Batch") -> Tensor:
        """Return the signals `(B, C, N)` of a batch that PyG's `DataLoader` made of such graphs.

        Raises:
            InputError: If the batch's `x` has not one row for each node of each of its graphs.
        """
        count = batch.num_graphs
        return self._signals(f"from_batch: the batch of {count} graphs", batch.x, count)

    def _signals(self, what: str, x: Tensor | None, count: int) -> Tensor:
        if x is None or x.ndim != 2 or x.shape[0] != count * self.num_nodes:
            given = "no x" if x is None else f"x of shape {tuple(x.shape)}"
            raise InputError(
                f"{what} has {given}, but (node, channel) = ({count} x {self.num_nodes}, C) was "
                "expected; pass graphs made by this domain's to_data."
            )
        return x.unflatten(0, (count, self.num_nodes)).transpose(1, 2)
