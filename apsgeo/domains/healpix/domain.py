"""HEALPix spheres: both orderings, full or partial sky."""

import math
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from apsgeo.domains.base import EARTH_RADIUS_KM, Domain, check_kernel_size, with_sign
from apsgeo.domains.edges import arcs, laplacian_of
from apsgeo.domains.graph.layers import AggregateUnpool
from apsgeo.domains.harmonics import harmonic_eigenbasis
from apsgeo.domains.healpix.layers import HEALPixFaceConv, HEALPixPatchConv, HEALPixPool
from apsgeo.domains.healpix.tables import face_grid, padded_faces, patches, pixel_triangles
from apsgeo.domains.symmetry import Symmetry
from apsgeo.domains.triangles import cotangent_conductance
from apsgeo.errors import GridError, InputError

__all__ = ["HEALPixDomain"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class HEALPixDomain(Domain):
    r"""Represent HEALPix pixels, all of them or some (Górski et al. 2005, *HEALPix*).

    The stiffness is that of linear finite elements on the Delaunay triangles between the centres
    of pixels that meet at a corner (see `cotangent_conductance`). Its eigenvalues approach l (l +
    1) with the square of the spacing. On a part of the sphere no flux leaves it.

    The eigenbasis of the full sky is that of the sphere itself: real spherical harmonics at the
    pixels' centres, made orthonormal by area from the lowest degree on, with the eigenvalues l (l
    + 1). Of a part of the sky it is that of the stiffness.

    Args:
        nside: Resolution, a power of two; the sky has `12 nside ** 2` pixels.
        nest: Whether pixels are numbered in the nested scheme, rather than in rings.
        pixels: Numbers of the pixels in the order of the nodes; all in ascending order by default.
        coverage: Share `(N,)` of each pixel that belongs to the domain, from 0 to 1; 1 by default.
            Coarse pixels at the border of a part of the sky are covered in part.

    Raises:
        GridError: If `nside` is no power of two; pixels are out of range, repeated or none; shares
            are not one each, or out of range.

    Example:
        >>> domain = HEALPixDomain(32)
        >>> domain
        HEALPixDomain(nside 32, nest, 12288 pixels, full sky)
        >>> domain.coarse().num_nodes
        3072
    """

    kind: ClassVar[str] = "healpix"
    radius_km = EARTH_RADIUS_KM

    def __init__(
        self,
        nside: int,
        nest: bool = True,
        pixels: ArrayLike | None = None,
        coverage: ArrayLike | None = None,
    ) -> None:
        if nside != int(nside) or nside < 1 or int(nside) & (int(nside) - 1):
            raise GridError(f"nside {nside} was given; a power of two (1, 2, 4, ...) is needed.")
        self.nside, self.nest = int(nside), bool(nest)
        self._whole = 12 * self.nside**2
        self.pixels = _pixels(pixels, self._whole, self.nside)
        self.coverage = _coverage(coverage, len(self.pixels))

    @property
    def num_nodes(self) -> int:
        """The number of pixels."""
        return len(self.pixels)

    @property
    def level(self) -> int:
        """The refinement level: `nside` is 2 to its power."""
        return self.nside.bit_length() - 1

    @property
    def is_global(self) -> bool:
        """Whether every pixel of the sky is a node."""
        return self.num_nodes == self._whole

    @cached_property
    def _nested(self) -> Index:
        """The nested number `(N,)` of each node."""
        import healpy

        return self.pixels if self.nest else healpy.ring2nest(self.nside, self.pixels)

    @cached_property
    def _by_number(self) -> tuple[Index, Index]:
        """The nested numbers in ascending order, and the nodes in that order."""
        order = np.argsort(self._nested)
        return self._nested[order], order

    def _nodes(self, nested: Index) -> Index:
        """Return the nodes of nested numbers of any shape, -1 for those that are not here."""
        numbers, order = self._by_number
        place = np.searchsorted(numbers, nested).clip(max=self.num_nodes - 1)
        return np.where(numbers[place] == nested, order[place], -1)

    @cached_property
    def positions(self) -> Tensor:
        """The pixels' centres `(N, 3)` on the unit sphere, float64."""
        import healpy

        return torch.from_numpy(np.stack(healpy.pix2vec(self.nside, self._nested, nest=True), 1))

    @cached_property
    def areas(self) -> Tensor:
        """The areas `(N,)` in steradians, float64: those of the pixels times the coverage."""
        return torch.from_numpy(4 * math.pi / self._whole * self.coverage)

    def node_at(self, points: Array) -> Index:
        """Return the nodes `(M,)` of the pixels that hold unit vectors `(M, 3)`; -1 for none."""
        import healpy

        return self._nodes(healpy.vec2pix(self.nside, *points.T, nest=True))

    def interpolation(self, points: Array) -> tuple[Index, Array]:
        """Return four nodes and weights `(4, M)` for unit vectors `(M, 3)`; -1 is no node."""
        import healpy

        theta, phi = healpy.vec2ang(points)
        pixels, weights = healpy.get_interp_weights(self.nside, theta, phi, nest=True)
        return self._nodes(pixels), weights

    @cached_property
    def _conductances(self) -> tuple[Index, Index, Array]:
        pixels, points, triangles = pixel_triangles(self.nside, self._by_number[0])
        low, high, conductance = cotangent_conductance(points, triangles)
        low, high = self._nodes(pixels[low]), self._nodes(pixels[high])
        here = (low >= 0) & (high >= 0)
        # where four centres lie on a circle, rounding may leave a conductance just below zero
        return low[here], high[here], conductance[here].clip(min=0)

    @cached_property
    def stiffness(self) -> scipy.sparse.csc_array:
        """The stiffness `(N, N)`, with no conductance below zero."""
        low, high, conductance = self._conductances
        return laplacian_of(conductance, low, high, self.num_nodes)

    @cached_property
    def edge_index(self) -> Tensor:
        """Pixels that share a side or a corner `(2, E)`, in both directions."""
        import healpy

        table = healpy.get_all_neighbours(self.nside, self._nested, nest=True)
        node = np.where(table >= 0, self._nodes(table), -1)
        start = np.broadcast_to(np.arange(self.num_nodes), node.shape)
        edges = np.stack([start[node >= 0], node[node >= 0]])
        # at nside 1 a pixel touches another at more than one corner
        return torch.from_numpy(np.unique(edges, axis=1) if self.nside == 1 else edges)

    @cached_property
    def edge_length(self) -> Tensor:
        """Great-circle distances `(E,)` in radians, the same there and back."""
        low, high = self.edge_index.sort(0).values
        once, place = torch.unique(low * self.num_nodes + high, return_inverse=True)
        ends = torch.stack([once // self.num_nodes, once % self.num_nodes])
        return arcs(self.positions, ends)[place]

    @cached_property
    def colouring(self) -> Tensor:
        """The checkerboard `(N,)` of each base pixel, and of the base pixels at nside 1.

        Sides have unlike colours, but for 8 nside of the 24 nside² at the polar base pixels; three
        of these meet at a corner, so that it cannot be done everywhere.
        """
        number = self._nested
        if self.nside == 1:
            return torch.from_numpy(number % 2 == 0)
        # x and y are the even and the odd bits, so that these two last bits give the parity
        return torch.from_numpy((number ^ (number >> 1)) % 2 == 0)

    @cached_property
    def features(self) -> Tensor:
        """The features `(4, N)`: the position's x, y, z = sin(latitude), and cos(latitude)."""
        x, y, z = self.positions.T
        return torch.stack([x, y, z, torch.hypot(x, y)]).float()

    def _compute_eigenbasis(self, k: int) -> tuple[Tensor, Tensor]:
        if not self.is_global or (self.coverage != 1).any():
            return super()._compute_eigenbasis(k)
        most = 9 * self.nside**2
        if k > most:
            raise InputError(
                f"eigenbasis(k={k}): pixels of nside {self.nside} tell apart the harmonics to "
                f"degree {3 * self.nside - 1}: choose k from 1 to {most}."
            )
        values, harmonics = harmonic_eigenbasis(self.positions, k)
        basis, _ = np.linalg.qr(harmonics.numpy())  # nested: a column knows only those before it
        root = math.sqrt(self._whole / (4 * math.pi))
        return values, torch.from_numpy(with_sign(basis * root))

    def continuous_eigenbasis(self, k: int) -> tuple[Tensor, Tensor] | None:
        """Return the real spherical harmonics, if the pixels are the full sky."""
        if not self.is_global:
            return None
        return harmonic_eigenbasis(self.positions, k)

    def _mirrors_and_turns(self) -> dict[str, Symmetry]:
        """A quarter turn, and the mirror images of east and west, north and south."""
        x, y, z = self.positions.numpy().T
        moved = {"quarter turn": ((-y, x, z), 4), "east-west": ((x, -y, z), 2)}
        moved["north-south"] = (x, y, -z), 2
        found = {}
        for name, (points, order) in moved.items():
            node = self.node_at(np.stack(points, 1))
            if node.min() >= 0:
                found[name] = Symmetry(torch.from_numpy(node), order)
        return found

    def conv(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Module:
        """Make a convolution over squares of pixels, which goes on across base pixels.

        Beyond the eight corners where three base pixels meet stands the mean of the pixels on
        either side; beyond the border of a part of the sky, the pixel in the middle of the patch.

        Raises:
            InputError: If `kernel_size` is even or not positive.
        """
        check_kernel_size(kernel_size)
        table, pairs = self._table(kernel_size // 2)
        if not self.is_global:
            return HEALPixPatchConv(in_channels, out_channels, kernel_size, table, pairs)
        side, rows = self.nside, self.nside + kernel_size - 1
        face, x, y = np.indices((12, side, side))
        place = np.empty(self._whole, dtype=np.int64)
        place[self._nodes(face_grid(side))] = (face * rows + x) * side + y
        return HEALPixFaceConv(
            in_channels, out_channels, kernel_size, table, pairs, torch.from_numpy(place)
        )

    @cached_property
    def _tables(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}

    def _table(self, pad: int) -> tuple[Tensor, Tensor]:
        """Return, flat, what a kernel meets, and the pairs whose means it meets from N on."""
        if pad not in self._tables:
            if self.is_global:
                ways = padded_faces(self.nside, pad)
            else:
                ways = patches(self.nside, self._nested, pad)
            first, second = (self._nodes(way).ravel() for way in ways)
            first = np.where(first < 0, second, first)
            middle = np.arange(first.size) % self.num_nodes
            first = np.where(first < 0, middle, first)
            second = np.where(second < 0, first, second)
            gap = first != second
            pairs, place = np.unique(
                np.stack([first[gap], second[gap]]), axis=1, return_inverse=True
            )
            first[gap] = self.num_nodes + place.ravel()
            self._tables[pad] = torch.from_numpy(first), torch.from_numpy(pairs)
        return self._tables[pad]

    @cached_property
    def _parents(self) -> tuple[Index, Index]:
        """The nested numbers of the coarse pixels, and the coarse node of each node."""
        import healpy

        if self.nside == 1:
            return self._nested, np.arange(self.num_nodes)
        numbers = self._nested >> 2
        if not self.nest:
            numbers = healpy.nest2ring(self.nside // 2, numbers)
        coarse, parent = np.unique(numbers, return_inverse=True)
        return coarse, parent.ravel()

    @property
    def can_coarsen(self) -> bool:
        """Whether there is a coarser level, with less than half as many pixels."""
        return self.nside > 1 and 2 * len(self._parents[0]) < self.num_nodes

    @cached_property
    def _coarse(self) -> "HEALPixDomain":
        if not self.can_coarsen:
            raise InputError(
                f"{self!r} cannot be coarsened: it needs nside 2 or more, and more than two pixels "
                "in a coarse one on average."
            )
        pixels, parent = self._parents
        coverage = np.bincount(parent, weights=self.coverage) / 4
        return HEALPixDomain(self.nside // 2, self.nest, pixels, coverage)

    def coarse(self) -> "HEALPixDomain":
        """Return the pixels of half the resolution, in ascending order.

        Raises:
            InputError: If there is no coarser level, or it has not less than half as many pixels.
        """
        return self._coarse

    def pool(self) -> nn.Module:
        """Make the mean of the four pixels in each coarse one, weighted by coverage."""
        count = self._coarse.num_nodes
        parent = self._parents[1]
        children = np.zeros((count, 4), dtype=np.int64)
        share = np.zeros((count, 4))
        children[parent, self._nested & 3] = np.arange(self.num_nodes)
        share[parent, self._nested & 3] = self.coverage
        share /= share.sum(1, keepdims=True)
        return HEALPixPool(torch.from_numpy(children), torch.from_numpy(share).float())

    def unpool(self) -> nn.Module:
        """Make the piecewise constant map from `coarse()`."""
        _ = self._coarse
        return AggregateUnpool(torch.from_numpy(self._parents[1]))

    def to_config(self) -> dict[str, Any]:
        """Return resolution and scheme, and pixels and coverage where they are not all."""
        whole = np.array_equal(self.pixels, np.arange(self._whole))
        covered = bool((self.coverage == 1).all())
        return {
            "kind": self.kind,
            "nside": self.nside,
            "nest": self.nest,
            "pixels": None if whole else self.pixels.tolist(),
            "coverage": None if covered else self.coverage.tolist(),
        }

    def _same(self, other: Any) -> bool:
        """Whether both have the same pixels, in the same scheme and order, covered alike."""
        return (
            (self.nside, self.nest) == (other.nside, other.nest)
            and np.array_equal(self.pixels, other.pixels)
            and np.array_equal(self.coverage, other.coverage)
        )

    def __repr__(self) -> str:
        """Show resolution, scheme and extent."""
        scheme = "nest" if self.nest else "ring"
        extent = "full sky" if self.is_global else f"{self.num_nodes / self._whole:.1%} of the sky"
        return f"HEALPixDomain(nside {self.nside}, {scheme}, {self.num_nodes} pixels, {extent})"


def _pixels(pixels: ArrayLike | None, whole: int, nside: int) -> Index:
    if pixels is None:
        return np.arange(whole)
    array = np.array(pixels)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise GridError(
            f"pixels has shape {array.shape} and dtype {array.dtype}; a list of at least one pixel "
            "number is needed: of a mask, give numpy.flatnonzero(mask)."
        )
    if array.min() < 0 or array.max() >= whole:
        raise GridError(
            f"pixels run from {array.min()} to {array.max()}; nside {nside} has the numbers 0 to "
            f"{whole - 1}: check nside."
        )
    array = array.astype(np.int64)
    if len(np.unique(array)) < len(array):
        raise GridError("a pixel is given twice; give each once.")
    return array


def _coverage(coverage: ArrayLike | None, count: int) -> Array:
    if coverage is None:
        return np.ones(count)
    array = np.array(coverage, dtype=np.float64)
    if array.shape != (count,) or not ((array > 0) & (array <= 1)).all():
        raise GridError(
            f"coverage has shape {array.shape}; {count} shares above 0 and up to 1 are needed, one "
            "for each pixel."
        )
    return array
