"""Orientations of a martensitic steel: grains against the nearest point and the mean of several."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from apsgeo.datasets import load
from apsgeo.labels.forms.reading import form_of
from apsgeo.metrics.geodesic import geodesic_coverage, geodesic_crps
from apsgeo.metrics.table import Row
from apsgeo.random_field.grains import Grains
from apsgeo.random_field.valued import GRAIN_ANGLE
from apsgeo.values.mean import frechet_mean
from apsgeo.values.quotient import Rotations

HIDDEN = 0.1
NEIGHBOURS = 8
MANIFOLD = Rotations("cubic")


def orientations() -> tuple[Tensor, np.ndarray, tuple[int, int]]:
    """Return the points (node, 4) of the map, NaN where not indexed, positions and shape."""
    array = load("ebsd")
    points = form_of(array, "rotations/cubic").encode(array, "ebsd").transpose("y", "x", "channel")
    y, x = np.meshgrid(array.y.values, array.x.values, indexing="ij")
    flat = torch.from_numpy(points.values.reshape(-1, 4)).double()
    return MANIFOLD.project(flat), np.stack([y.ravel(), x.ravel()], 1), points.shape[:2]


def run(members: int, seed: int) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Hide a tenth of the indexed points, fill them, and score; angles are in degrees."""
    points, positions, shape = orientations()
    known = ~points.isnan().any(-1)
    hidden = known & (
        torch.rand(len(known), generator=torch.Generator().manual_seed(seed)) < HIDDEN
    )
    seen = torch.where((known & ~hidden)[:, None], points, torch.nan)
    truth, at = points[hidden], positions[hidden.numpy()]
    given = (known & ~hidden).numpy()
    near = cKDTree(positions[given]).query(at, NEIGHBOURS)[1]
    around = points[known & ~hidden][near]
    mean = frechet_mean(MANIFOLD, around.transpose(0, 1))
    grains = Grains(MANIFOLD, positions, seen, GRAIN_ANGLE, seed)
    drawn = grains.members(at, members, seed + 1)
    rows = [
        _row("nearest neighbour", around[:, 0], truth),
        _row(f"geodesic mean of {NEIGHBOURS} neighbours", mean, truth),
        _row("grains", grains.estimate(at), truth, drawn),
    ]
    missing = ~(known & ~hidden).numpy()
    filled = grains.members(positions[missing], 2, seed + 2)
    maps = {"seen": seen.numpy()}
    for k, each in enumerate(filled):
        whole = seen.clone()
        whole[torch.from_numpy(missing)] = each
        maps[f"member {k + 1}"] = whole.numpy()
    return rows, {name: each.reshape(*shape, 4) for name, each in maps.items()}


def _row(name: str, point: Tensor, truth: Tensor, members: Tensor | None = None) -> Row:
    error = torch.rad2deg(MANIFOLD.distance(point, truth))
    row: dict[str, object] = {
        "part": "orientations",
        "method": name,
        "median": float(error.median()),
        "rmse": float(error.square().mean().sqrt()),
        "crps": float(error.mean()),
        "records": len(truth),
    }
    if members is not None:
        chunks = torch.arange(len(truth)).chunk(16)
        crps = [geodesic_crps(members[:, c], truth[c], MANIFOLD.distance) for c in chunks]
        row["crps"] = float(torch.rad2deg(torch.cat(crps)).mean())
        row["coverage"] = float(geodesic_coverage(members, point, truth, MANIFOLD.distance))
    return row
