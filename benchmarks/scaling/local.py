"""Measure how the cost of a local posterior grows with the nodes, up to a million.

python -m benchmarks scaling-local    writes benchmarks/results/scaling_local.*

The prior is localised, with 49 smooth patterns, on HEALPix and on a latitude-longitude grid of a
quarter of a degree. The cost of a field is the time for its posterior and all members, its own mask
included; what is kept for all masks has a column of its own. Each row is measured in a process of
its own, so that the peak of its memory is known.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from apsgeo.domains import Domain, HEALPixDomain, LatLonDomain
from apsgeo.gaussian.localised import LocalisedField, LocalisedPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Measurement
from apsgeo.metrics.table import Column, Row, Table
from apsgeo.operators import Mask
from benchmarks.options import Option
from benchmarks.report import page, save
from benchmarks.scaling.suite import alone, peak_mib, seconds_of, slope_of

PATTERNS = 49  # spherical harmonics up to degree six
TAPER_KM, RANGE_KM = 3000.0, 1500.0
NOISE_STD = 0.2
OPTIONS = {
    "members": 64,
    "threads": 2,
    "nsides": Option((16, 32, 64, 128, 256), "resolutions of the sphere"),
    "rows": Option((721,), "rows of latitude-longitude grids; twice as many columns, less two"),
    "density": Option(0.1, "observed share of the area"),
}
TABLE = Table(
    Column("domain", "domain"),
    Column("nodes", "nodes", ".0f"),
    Column("seconds a field", "seconds", ".3g"),
    Column("of which members", "members_seconds", ".3g"),
    Column("seconds once", "once_seconds", ".3g"),
    Column("peak MiB", "peak_mib", ".0f"),
)


def domain_of(name: str) -> Domain:
    """Return the domain of a row: "nside 16", or "721 x 1440"."""
    if name.startswith("nside"):
        return HEALPixDomain(int(name.split()[1]))
    rows, columns = map(int, name.split(" x "))
    return LatLonDomain(np.linspace(90, -90, rows), np.arange(columns) * (360 / columns))


def make_prior(domain: Domain, generator: torch.Generator) -> LocalisedPrior:
    """Return a prior of unit variance, half of it in smooth patterns."""
    found = domain.continuous_eigenbasis(PATTERNS)
    assert found is not None
    white = torch.randn(PATTERNS, PATTERNS, generator=generator, dtype=torch.float64)
    patterns = found[1] @ white
    patterns /= (2 * patterns.square().sum(1, keepdim=True)).sqrt()
    shape = (1, domain.num_nodes)
    return LocalisedPrior(
        LocalisedField(domain, TAPER_KM, RANGE_KM),
        patterns[None].float(),
        torch.full(shape, 0.5**0.5),
        torch.full(shape, 0.03),
        global_weight=0.3,
        tapered_weight=0.7,
    )


def cost(name: str, options: argparse.Namespace) -> Row:
    """Measure one domain."""
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(options.seed)
    domain = domain_of(name)
    local = VecchiaPrior(make_prior(domain, generator))

    def measured(key: int) -> Measurement:
        mask = Mask.at_density(domain, options.density, generator)
        values = torch.randn(1, 1, domain.num_nodes, generator=generator)
        return Measurement(
            values, mask[None, None], torch.tensor(NOISE_STD), key=torch.tensor([key])
        )

    first, second = measured(0), measured(1)
    once = seconds_of(lambda: local.posterior(first))
    posterior = seconds_of(lambda: local.posterior(second))
    draws = local.posterior(second)
    members = seconds_of(lambda: draws.members(options.members, options.seed))
    return {
        "domain": name,
        "nodes": domain.num_nodes,
        "seconds": posterior + members,
        "members_seconds": members,
        "once_seconds": once - posterior,
        "peak_mib": peak_mib(),
    }


def run(options: argparse.Namespace, made: str) -> None:
    """Run the benchmark and write its results."""
    names = [f"nside {nside}" for nside in options.nsides]
    names += [f"{rows} x {2 * rows - 2}" for rows in options.rows]
    rows: list[Row] = []
    with alone(options.threads) as pool:
        for name in names:
            rows.append(pool.submit(cost, name, options).result())
            print(rows[-1], flush=True)
    spheres = [row for row in rows if str(row["domain"]).startswith("nside")]
    seconds = slope_of(spheres)[0]
    memory = slope_of([{**row, "seconds": row["peak_mib"]} for row in spheres])[0]
    about = (
        f"Local posterior (`VecchiaPrior`) and {options.members} members of one field, its own "
        f"mask included, given a localised prior of {PATTERNS} patterns; {options.density:.0%} of "
        f"the nodes observed, noise {NOISE_STD} of a standard deviation. The order of the blocks, "
        "and what no mask changes, are made once. The peak of memory is that of the whole process."
    )
    grows = (
        f"On HEALPix seconds grow as nodes to the power {seconds:.2f}, and memory {memory:.2f} "
        "(least squares in log-log)."
    )
    text = page(
        "Cost of a local posterior by number of nodes", about, TABLE.markdown(rows), grows, made
    )
    save(options.output / "scaling_local", rows, text)
    print(text)
