"""Fields on the sphere and of tensors whose posterior is known: ours against the exact one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import apsgeo
from apsgeo.metrics.geodesic import geodesic_coverage, geodesic_crps
from apsgeo.metrics.table import Row
from apsgeo.values.flat import Euclidean
from apsgeo.values.manifold import Manifold
from apsgeo.values.mean import frechet_mean
from apsgeo.values.spd import SPD
from apsgeo.values.sphere import Sphere
from apsgeo.values.values import Values

LAT, LON = np.linspace(75.0, -75.0, 8), np.arange(0.0, 360.0, 30.0)
RECORDS, TEST = 800, 24
LENGTH = 0.9  # of the covariance, in radians
SPREAD, NOISE = 0.35, 0.1
SEEN = 0.25
FRESH = (1, 2, 3)  # added to the seed; on the fields of 0 the weight of the EOFs was chosen
_MEANS = ("crps", "rmse", "coverage", "seconds", "ratio")


Panels = dict[str, xr.DataArray]


def run(members: int, seed: int) -> tuple[list[Row], Panels]:
    """Return the scores of ours and of the exact posterior on both manifolds, and maps to draw."""
    spd = SPD(3)
    unit = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    rows: list[Row] = []
    panels: Panels = {}
    for manifold, centre in (
        (Sphere(2), torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)),
        (spd, unit),
    ):
        runs = [_compare(manifold, centre, members, seed + fresh) for fresh in FRESH]
        exact, ours = (_averaged(each) for each in zip(*(rows for rows, _ in runs), strict=True))
        rows += [{**row, "of_exact": row["crps"] / exact["crps"]} for row in (exact, ours)]
        panels = runs[0][1]
    return rows, panels


def _averaged(rows: Sequence[Row]) -> Row:
    """Return the mean of the scores of one method over runs; the fields of all are counted."""
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name in _MEANS}
    return {**rows[0], **means, "records": sum(row["records"] for row in rows)}


def _compare(
    manifold: Manifold, centre: Tensor, members: int, seed: int
) -> tuple[list[Row], Panels]:
    """Return the scores on fields of one seed, and maps of the first of them."""
    generator = torch.Generator().manual_seed(seed)
    lat, lon = np.deg2rad(np.meshgrid(LAT, LON, indexing="ij"))
    places = torch.from_numpy(
        np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    ).reshape(-1, 3)
    count, dim = len(places), manifold.dim
    apart = torch.cdist(places, places)
    cov = torch.exp(-0.5 * (apart / LENGTH) ** 2) + 1e-6 * torch.eye(count, dtype=torch.float64)
    root = SPREAD * torch.linalg.cholesky(cov)
    # The mean field turns from node to node.
    tilt = 0.3 * torch.stack([places[:, k % 3] for k in range(dim)], -1)
    frame = manifold.frame(centre)
    mean = manifold.exp(centre, torch.einsum("ad,nd->na", frame, tilt))
    frames = torch.stack(
        [
            manifold.transport(centre.expand_as(mean), mean, frame[:, d].expand_as(mean))
            for d in range(dim)
        ],
        -1,
    )

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def field(coordinates: Tensor) -> Tensor:
        return manifold.exp(mean, torch.einsum("nad,...nd->...na", frames, coordinates))

    v = torch.einsum("nm,rmd->rnd", root, normal(RECORDS + TEST, count, dim))
    history, truth = field(v[:RECORDS]), field(v[RECORDS:])
    mask = torch.rand(TEST, count, generator=generator) < SEEN
    noisy = v[RECORDS:] + NOISE * normal(TEST, count, dim)
    prior_cov, kept = SPREAD**2 * cov, []
    for k in range(TEST):
        at = mask[k].nonzero()[:, 0]
        gram = prior_cov[at][:, at] + NOISE**2 * torch.eye(len(at), dtype=torch.float64)
        gain = torch.linalg.solve(gram, prior_cov[at]).T
        left = torch.linalg.cholesky(
            prior_cov - gain @ prior_cov[at] + 1e-9 * torch.eye(count, dtype=torch.float64)
        )
        drawn = torch.einsum("nm,kmd->knd", left, normal(members, count, dim))
        kept.append(field(gain @ noisy[k][at] + drawn))
    exact = torch.stack(kept, 1)
    ours, seconds = _ours(
        Values(manifold, "tangent"), history, _where(mask, field(noisy)), members, seed
    )
    flat = Values(Euclidean(dim))
    _, usual = _ours(flat, v[:RECORDS], _where(mask, noisy), members, seed)
    rows = [
        _row(f"{manifold!r}: {name}", each, truth, ~mask, manifold)
        for name, each in (("exact posterior", exact), ("fitted to a history", ours))
    ]
    rows[1] = {**rows[1], "seconds": seconds, "ratio": seconds / usual}
    shown = {
        "truth": truth[0],
        "observed": _where(mask, field(noisy))[0],
        "a member": ours[0, 0],
        "another": ours[1, 0],
    }
    return rows, {name: _labelled(points[None])[0] for name, points in shown.items()}


def _labelled(points: Tensor, channel: str = "component") -> xr.DataArray:
    """Label points (record, node, ambient)."""
    return xr.DataArray(
        points.numpy().reshape(-1, len(LAT), len(LON), points.shape[-1]),
        dims=("record", "lat", "lon", channel),
        coords={"lat": LAT, "lon": LON},
    )


def _where(mask: Tensor, values: Tensor) -> Tensor:
    return torch.where(mask[..., None], values, torch.nan)


def _ours(
    values: Values, history: Tensor, seen: Tensor, members: int, seed: int
) -> tuple[Tensor, float]:
    """Return members of fields (record, node, ambient), and the seconds that each took."""
    channel = "channel" if isinstance(values.manifold, Euclidean) else "component"
    array = _labelled(history, channel)
    scales = apsgeo.HybridScales(eof_weight=0.99, range_km=4000.0)
    fixed: dict[str, Any] = {"scales": scales, "anchor_scales": scales, "steps": 0}
    prior = apsgeo.fit_prior(array, manifold=values, progress=False, memory=False, **fixed)
    posterior = apsgeo.Posterior.of(prior, prior.anchor, apsgeo.Mask(), noise_std=NOISE)
    posterior(seen.mT.float()).members(members, seed)  # what no mask changes is kept from here on
    start = time.perf_counter()
    drawn = posterior(seen.mT.float()).members(members, seed)
    return drawn.mT.double(), (time.perf_counter() - start) / len(seen)


def _row(name: str, members: Tensor, truth: Tensor, hidden: Tensor, manifold: Manifold) -> Row:
    drawn, at = members[:, hidden], truth[hidden]
    chunks = torch.arange(len(at)).chunk(12)
    crps = torch.cat([geodesic_crps(drawn[:, c], at[c], manifold.distance) for c in chunks])
    centre = frechet_mean(manifold, drawn)
    error = manifold.distance(centre, at)
    return {
        "part": "synthetic",
        "method": name,
        "crps": float(crps.mean()),
        "rmse": float(error.square().mean().sqrt()),
        "coverage": float(geodesic_coverage(drawn, centre, at, manifold.distance)),
        "records": TEST,
    }
