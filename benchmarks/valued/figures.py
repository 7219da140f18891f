"""Figures: orientations in the colours of the inverse pole figure, directions by hue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.valued.winds import CIRCLE, Drawn

Array = NDArray[np.float64]


def inverse_pole_colours(quaternions: Array) -> Array:
    """Return the colours (..., 3) of the specimen's normal in cubic crystals, white where NaN.

    The direction is taken to the standard triangle (001)-(011)-(111), whose corners are red, green
    and blue.
    """
    w, x, y, z = np.moveaxis(quaternions, -1, 0)
    # the third row of the rotation from crystal to specimen: the normal in crystal coordinates
    normal = np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x**2 + y**2)], -1)
    return triangle_colours(normal)


def triangle_colours(direction: Array) -> Array:
    """Return the colours (..., 3) of directions in cubic crystals."""
    low, middle, high = np.moveaxis(np.sort(np.abs(direction), -1), -1, 0)
    # in terms of the corners: high - middle to (001), middle - low to (011), low to (111)
    parts = np.stack([high - middle, np.sqrt(2.0) * (middle - low), np.sqrt(3.0) * low], -1)
    scaled = parts / np.nanmax(parts, -1, initial=1e-12, keepdims=True)
    return np.where(np.isnan(scaled), 1.0, np.sqrt(scaled.clip(0.0, 1.0)))


def draw_orientations(maps: dict[str, Array], path: Path) -> None:
    """Draw a part of the map as it was seen and two members, and the key of the colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes: Any = figure.subplots(len(maps) + 1, 1, height_ratios=[1.0] * len(maps) + [0.9])
    for axis, (name, each) in zip(axes, maps.items(), strict=False):
        axis.imshow(inverse_pole_colours(each[:, :360]), interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    u, v = np.meshgrid(np.linspace(0, 0.45, 150), np.linspace(0, 0.4, 150))
    # stereographic: the point (X, Y) is the direction (2 X, 2 Y, 1 - X^2 - Y^2)
    direction = np.stack([2 * u, 2 * v, 1 - u**2 - v**2], -1)
    inside = (v <= u) & (2 * u <= 1 - u**2 - v**2)
    key = np.where(inside[..., None], triangle_colours(direction), 1.0)
    axes[-1].imshow(key, origin="lower", extent=(0, 0.45, 0, 0.4))
    for label, (px, py) in {"001": (0, 0), "011": (0.414, 0), "111": (0.366, 0.366)}.items():
        axes[-1].annotate(label, (px, py), fontsize=8)
    axes[-1].set_axis_off()
    figure.savefig(path, dpi=110)


def draw_winds(drawn: Drawn, path: Path) -> None:
    """Draw truth, what was seen, members by hue with arrows, and where they are of two modes."""
    from matplotlib.colors import hsv_to_rgb
    from matplotlib.figure import Figure

    case, members = drawn.case, drawn.members
    shape = (73, 144)
    seen = case.seen[0].T

    def hue(points: Tensor) -> Array:
        angle = torch.atan2(points[:, 1], points[:, 0]).numpy().reshape(shape)
        known = ~np.isnan(angle)
        hsv = np.stack(
            [np.nan_to_num(angle) / (2 * np.pi) % 1.0, 0.75 * known, known * 0.0 + 0.95], -1
        )
        return hsv_to_rgb(hsv)

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes: Any = figure.subplots(2, 3)
    shown = {"truth": case.truth, "seen": seen} | {f"member {k + 1}": members[k] for k in range(2)}
    for axis, (name, points) in zip(axes.flat, shown.items(), strict=False):
        axis.imshow(hue(points), extent=(0, 360, -90, 90), interpolation="nearest")
        grid = points.numpy().reshape(*shape, 2)[4::8, 4::8]
        lat, lon = np.linspace(90, -90, 73)[4::8], np.arange(0, 360, 2.5)[4::8]
        axis.quiver(lon, lat, grid[..., 0], grid[..., 1], scale=45, width=0.003)
        axis.set_title(f"{name}, {case.label}", fontsize=9)
        axis.set_axis_off()
    more = bimodality(members)
    shade = axes[1, 1].imshow(
        more.clamp(min=0.0).reshape(shape), extent=(0, 360, -90, 90), cmap="Greys", vmin=0.0
    )
    axes[1, 1].set_title("where members are of two opposite modes", fontsize=9)
    axes[1, 1].set_axis_off()
    figure.colorbar(shade, ax=axes[1, 1], shrink=0.6)
    cell = int(more.argmax())
    angles = torch.atan2(members[:, cell, 1], members[:, cell, 0]).rad2deg()
    true = torch.atan2(case.truth[cell, 1], case.truth[cell, 0]).rad2deg()
    north, east = 90 - 2.5 * (cell // 144), 2.5 * (cell % 144)
    axes[1, 2].hist(angles.numpy(), bins=np.arange(-180, 181, 20))
    axes[1, 2].axvline(float(true), color="black")
    axes[1, 2].set_title(f"members at {north:g}, {east:g}; truth is the line", fontsize=9)
    axes[1, 2].set_xlabel("direction towards [degree from east]")
    figure.savefig(path, dpi=110)


def bimodality(members: Tensor) -> Tensor:
    """Return how much more members (member, node, 2) lie in two opposite heaps than in one.

    Twice the angle has a long mean vector there, and the angle itself a short one.
    """
    angle = torch.atan2(members[..., 1], members[..., 0])
    once = CIRCLE.project(members).mean(0).norm(dim=-1)
    twice = torch.stack([torch.cos(2 * angle), torch.sin(2 * angle)], -1).mean(0).norm(dim=-1)
    return twice - once
