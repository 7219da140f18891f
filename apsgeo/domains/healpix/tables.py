"""Which HEALPix pixels are neighbours, in nested order; the only file that walks over the sphere.

Directions count as in healpy: SW, W, NW, N, NE, E, SE, S. Within a base pixel x grows to the
north-east and y to the north-west (Górski et al. 2005, *HEALPix*, section 4).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apsgeo.domains.triangles import delaunay_split

__all__ = ["face_grid", "padded_faces", "patches", "pixel_triangles"]

Index = NDArray[np.int64]

_STEP_X, _STEP_Y = {1: 4, -1: 0}, {1: 2, -1: 6}


class Neighbourhood(NamedTuple):
    """Some pixels in nested order, and their neighbours among them.

    Base pixels are turned against each other at the polar ones. `turn` says by how much, so that
    one can walk straight on.
    """

    pixels: Index
    """The pixels `(M,)`, ascending."""
    neighbour: Index
    """Indices `(M, 8)` into `pixels`, -1 where there is none."""
    turn: Index
    """For each pixel and direction `(M, 8)`, what to add to a direction after a step in it; only
    for steps over a side, which are the even directions."""


def neighbourhood(nside: int, pixels: Index, rounds: int) -> Neighbourhood:
    """Gather the pixels within `rounds` steps, and what is next to each."""
    import healpy

    table = healpy.get_all_neighbours(nside, pixels, nest=True).T
    for _ in range(rounds if len(pixels) < 12 * nside**2 else 0):
        pixels = np.union1d(pixels, table[table >= 0])
        table = healpy.get_all_neighbours(nside, pixels, nest=True).T
    if len(pixels) < 12 * nside**2:
        place = np.searchsorted(pixels, table).clip(max=len(pixels) - 1)
        local = np.where(pixels[place] == table, place, -1)
    else:
        pixels, local = np.arange(12 * nside**2), table[np.argsort(pixels)]
        table = local
    turn = np.zeros_like(local)
    for direction in (0, 2, 4, 6):
        # a neighbour that is not there is -1, whose row is the last: what it says is not used
        back = (table[local[:, direction]][:, ::2] == pixels[:, None]).argmax(1) * 2
        turn[:, direction] = (back - 4 - direction) % 8
    return Neighbourhood(pixels, local, turn)


def _walk(around: Neighbourhood, start: Index, dx: Index, dy: Index, x_first: bool) -> Index:
    """Go `dx` pixels along x and `dy` along y, in one order or the other; -1 is off the map."""
    place, heading = start.copy(), np.zeros_like(start)
    legs = [(dx, _STEP_X), (dy, _STEP_Y)]
    for distance, step in legs if x_first else legs[::-1]:
        direction = np.where(distance > 0, step[1], step[-1])
        for taken in range(int(np.abs(distance).max(initial=0))):
            going = (np.abs(distance) > taken) & (place >= 0)
            local = (direction + heading) % 8
            following = around.neighbour[place, local]
            heading = np.where(going, heading + around.turn[place, local], heading)
            place = np.where(going, following, place)
    return place


def _both_ways(around: Neighbourhood, start: Index, dx: Index, dy: Index) -> tuple[Index, Index]:
    """Return where the two orders of walking end: two pixels only beyond a corner of three."""
    first = _walk(around, start, dx, dy, True)
    second = _walk(around, start, dx, dy, False)
    return first, second


def face_grid(nside: int) -> Index:
    """Return the nested pixel at each (base pixel, x, y), of shape `(12, nside, nside)`."""
    import healpy

    face, x, y = np.indices((12, nside, nside))
    return healpy.xyf2pix(nside, x, y, face, nest=True)


def padded_faces(nside: int, pad: int) -> tuple[Index, Index]:
    """Extend each base pixel by what lies beyond its sides.

    Returns:
        Two tables `(12, nside + 2 pad, nside + 2 pad)` of nested pixels. They differ beyond the
        corners where only three base pixels meet: there the pixel's value is the mean of both,
        those on either side of the gap (as Karlbauer et al. 2024, *Advancing parsimonious deep
        learning weather prediction using the HEALPix mesh*).
    """
    grid = face_grid(nside)
    face, x, y = np.indices((12, nside + 2 * pad, nside + 2 * pad))
    x, y = x - pad, y - pad
    inside_x, inside_y = x.clip(0, nside - 1), y.clip(0, nside - 1)
    around = neighbourhood(nside, np.arange(12 * nside**2), 0)
    return _both_ways(around, grid[face, inside_x, inside_y], x - inside_x, y - inside_y)


def patches(nside: int, pixels: Index, pad: int) -> tuple[Index, Index]:
    """Return the patch of `2 pad + 1` squared pixels about each pixel.

    Returns:
        Two tables `(patch, N)` of nested pixels, as `padded_faces` has them; -1 is never in it.
    """
    ordered = np.unique(pixels)
    around = neighbourhood(nside, ordered, 2 * pad)
    start = np.searchsorted(around.pixels, pixels)
    dx, dy = (d.ravel()[:, None] for d in np.mgrid[-pad : pad + 1, -pad : pad + 1])
    shape = (len(dx), len(pixels))
    first, second = _both_ways(
        around,
        np.broadcast_to(start, shape),
        np.broadcast_to(dx, shape),
        np.broadcast_to(dy, shape),
    )
    return around.pixels[first], around.pixels[second]


def pixel_triangles(nside: int, pixels: Index) -> tuple[Index, NDArray[np.float64], Index]:
    """Join the centres of pixels that meet at a corner, in all triangles that touch `pixels`.

    Four pixels meet at a corner, or three at eight corners. Four are split along the diagonal of
    the Delaunay triangulation.

    Args:
        nside: The resolution.
        pixels: Numbers `(N,)` of the pixels in the nested scheme, ascending.

    Returns:
        The pixels `(M,)` that are concerned, their centres `(M, 3)` on the unit sphere, and the
        triangles `(T, 3)` as indices into them, each once.
    """
    import healpy

    around = neighbourhood(nside, pixels, 1)
    wanted = np.isin(around.pixels, pixels)
    centre = np.flatnonzero(wanted)
    quads = np.concatenate(
        [
            np.stack([centre, *(around.neighbour[centre, (d + i) % 8] for i in (-1, 0, 1))], 1)
            for d in (1, 3, 5, 7)
        ]
    )
    others = quads[:, 1:]
    # a corner is met from each wanted pixel that has it: keep it from the first of them
    first = (~wanted[others] | (others > quads[:, :1]) | (others < 0)).all(1)
    quads = quads[first]
    points = np.stack(healpy.pix2vec(nside, around.pixels, nest=True), 1)
    three = quads[:, 2] < 0
    triangles = np.concatenate([delaunay_split(points, quads[~three]), quads[three][:, [0, 1, 3]]])
    return around.pixels, points, triangles
