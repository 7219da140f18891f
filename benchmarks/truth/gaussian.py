"""Linear-Gaussian problems on every domain: the untrained anchored flow is the exact posterior.

From the local start it approximates it without a solve that grows with the observations.

The reference is dense linear algebra in float64 from the covariance alone, which shares no code
with the priors' posteriors: C - C A^T (A C A^T + R)^{-1} A C.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import ConvexHull
from torch import Tensor

from apsgeo.domains import (
    Domain,
    GraphDomain,
    HEALPixDomain,
    ImageDomain,
    LatLonDomain,
    MeshDomain,
)
from apsgeo.flows.build import CouplingSpec, build_flow
from apsgeo.flows.spec import BaseName, Site
from apsgeo.flows.start import Known
from apsgeo.gaussian.fit import fit_gaussian
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Normals
from apsgeo.metrics.table import Row
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from benchmarks.truth.scores import calibration, excess_scores

NOISE_STD = 0.3
DENSITY = 0.15
_HISTORY, _RANK = 60, 6
_SHARING = 20  # simulations with one mask


def domains(finer: int = 1) -> dict[str, Domain]:
    """Return a small instance of each domain, of 100 to 200 nodes, or finer in each direction."""
    rng = np.random.default_rng(0)
    nodes = 120 * finer**2
    index = np.arange(nodes) + 0.5
    height, azimuth = 1.0 - 2.0 * index / nodes, np.pi * (1.0 + 5.0**0.5) * index
    flat = np.sqrt(1.0 - height**2)
    sphere = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), height], 1)
    faces = ConvexHull(sphere).simplices
    corners = sphere[faces]
    inward = np.linalg.det(corners) < 0
    faces[inward] = faces[inward][:, ::-1]
    return {
        "image": ImageDomain(10 * finer, 12 * finer),
        "HEALPix": HEALPixDomain(4 * finer),
        "lat-lon": LatLonDomain(np.linspace(85, -85, 9 * finer), np.arange(0, 360, 30.0 / finer)),
        "graph": GraphDomain(rng.random((100 * finer**2, 2))),
        "mesh": MeshDomain(sphere, faces, radius_km=1.0),
    }


METHODS: dict[str, BaseName] = {
    "anchored, untrained": "anchor",
    "local start, untrained": "local",
}
"""Bases of the flows that are scored, by the method's name."""


def make_posterior(domain: Domain, base: BaseName, seed: int) -> tuple[Posterior, Tensor]:
    """Return an untrained posterior of the domain's hybrid prior, and its dense covariance."""
    generator = torch.Generator().manual_seed(seed)
    smooth = domain.eigenbasis(_RANK)[1][:, :_RANK].float()
    amplitude = torch.randn(_HISTORY, _RANK, generator=generator)
    fields = (amplitude @ smooth.T / smooth.square().mean().sqrt())[:, None] / _RANK**0.5
    fields = fields + 0.5 * torch.randn(fields.shape, generator=generator)
    scales = HybridScales.start(domain)
    prior = fit_gaussian(scales.field(domain), fields, scales, rank=_RANK)
    spec = CouplingSpec(
        base=base,
        width=8,
        depth=0,
        context=4,
        local=2,
        patterns=4,
        coupling_width=4,
        elementwise="spline",
    )
    shape = (1, 1, domain.num_nodes)
    normals = Normals(torch.zeros(shape), torch.ones(shape), torch.ones(shape[-1:]).bool())
    torch.manual_seed(seed)
    site = Site(domain, 1, Known(normals), torch.zeros(3, domain.num_nodes), prior)
    flow = build_flow(site, spec)
    noise = torch.full(shape[-1:], NOISE_STD)
    posterior = Posterior(domain, normals, Mask(), flow.eval(), noise)
    nodes = np.arange(domain.num_nodes)
    return posterior, torch.from_numpy(prior.annual.covariance(nodes, nodes))


@dataclass(frozen=True)
class Exact:
    """The dense posterior of values y (simulation, node), NaN where not observed, of one mask."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, covariance: Tensor, y: Tensor) -> Exact:
        """Condition a zero-mean Gaussian on the observed values."""
        seen = ~torch.isnan(y[0])
        gram = covariance[seen][:, seen] + NOISE_STD**2 * torch.eye(int(seen.sum()))
        gain = torch.linalg.solve(gram, covariance[seen]).T
        return cls(y[:, seen].double() @ gain.T, covariance - gain @ covariance[seen])

    def sample(self, members: int, generator: torch.Generator) -> Tensor:
        """Draw fields (member, simulation, node)."""
        size = (members, *self.mean.shape)
        white = torch.randn(size, generator=generator, dtype=torch.float64)
        return self.mean + white @ torch.linalg.cholesky(self.covariance).T

    def log_prob(self, fields: Tensor) -> Tensor:
        """Return the log density (member, simulation) of fields (member, simulation, node)."""
        law = torch.distributions.MultivariateNormal(self.mean, self.covariance)
        return law.log_prob(fields.double())


def gaussian_rows(*, simulations: int, members: int, seed: int, finer: int = 1) -> list[Row]:
    """Compare untrained flows with the exact posterior on each domain; see `domains`."""
    rows = [
        _row(name, domain, method, simulations=simulations, members=members, seed=seed)
        for name, domain in domains(finer).items()
        for method in METHODS
    ]
    print(*rows, sep="\n", flush=True)
    return rows


def _row(
    name: str, domain: Domain, method: str, *, simulations: int, members: int, seed: int
) -> Row:
    posterior, covariance = make_posterior(domain, METHODS[method], seed)
    root = torch.linalg.cholesky(covariance)
    generator = torch.Generator().manual_seed(seed + 1)
    mean_error, gaps, drawn, truths, references = [], [], [], [], []
    for _ in range(simulations // _SHARING):
        white = torch.randn(_SHARING, domain.num_nodes, generator=generator).double()
        truth = (white @ root.T).float()
        mask = Mask.at_density(domain, DENSITY, generator)
        noise = NOISE_STD * torch.randn(truth.shape, generator=generator)
        y = (truth + noise).masked_fill(~mask, torch.nan)
        exact = Exact.of(covariance, y)
        found = posterior(y[:, None])
        size = (members, _SHARING, found.noise_dim)
        with torch.no_grad():
            centre = found.from_noise(torch.zeros(1, *size[1:]))[0, :, 0]
            fields = found.from_noise(torch.randn(size, generator=generator))
            log_q = found.log_prob(fields)
        std = exact.covariance.diagonal().sqrt()
        mean_error.append(float(((centre - exact.mean) / std).abs().max()))
        gaps.append(log_q.double() - exact.log_prob(fields[:, :, 0]))
        drawn.append(fields[:, :, 0])
        truths.append(truth)
        references.append(exact.sample(members, generator))
    every, truth = torch.cat(drawn, 1).double(), torch.cat(truths).double()
    gap = torch.cat(gaps, 1)
    pattern = torch.linalg.eigh(covariance).eigenvectors[:, -1]
    crps, energy = excess_scores(every, torch.cat(references, 1))
    return {
        "problem": f"linear-Gaussian, {name}, {domain.num_nodes} nodes",
        "method": method,
        "kl": float(gap.mean()),
        "kl_value": float(gap.mean()) / domain.num_nodes,
        "kl_greatest": float(gap.abs().max()),
        "mean_error": max(mean_error),
        "crps": crps,
        "energy": energy,
        **calibration(every @ pattern, truth @ pattern, every, truth),
    }
