"""The two-dimensional rows of the truth suite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from apsgeo.distillation.objective import (
    Annealing,
    ForwardKL,
    LogDensity,
    Objective,
    PathReverseKL,
    ReverseKL,
    WeightedSum,
)
from apsgeo.distillation.pairs import Batch
from apsgeo.flows.coupling import ElementwiseMap
from apsgeo.flows.elementwise import Affine, Elementwise, Spline
from apsgeo.flows.flow import CouplingFlow
from apsgeo.flows.patterns import GlobalCoupling
from apsgeo.flows.start import Moments
from apsgeo.gaussian.draws import Base, WhiteNoise
from apsgeo.measurement import Measurement, Method
from apsgeo.metrics.table import Row
from apsgeo.optim.loop import fit_loop
from apsgeo.optim.training import Training
from benchmarks.truth.chains import HMC
from benchmarks.truth.figures import PlanePanel
from benchmarks.truth.planar import (
    DENSITIES,
    NOISE_STD,
    Banana,
    EightGaussians,
    Planar,
    Quadrature,
    Ring,
)
from benchmarks.truth.scores import calibration, excess_scores, weight_scores

BaseName = Literal["white", "anchor"]
"""Base of a flow: N(0, I), or the posterior of the Gaussian anchor."""

_CONTEXT = 8
_BATCH = 128
_WIDTH = 64
_SHOWN = {Banana: 1.0, Ring: 0.8, EightGaussians: 0.8}
"""The value that was measured in the figure."""
_SHOWN_MEMBERS = 1000


@dataclass(frozen=True)
class Plan:
    """The architecture and the training of a flow of points."""

    name: str
    base: BaseName
    maps: Elementwise
    objective: str
    couplings: int = 4
    width: int = 64
    annealing: float = 1.0


PLANS = (
    Plan("paper's form", "white", Affine(), "reverse", couplings=8),
    Plan("anchored, untrained", "anchor", Affine(), "none"),
    Plan("anchored, reverse", "anchor", Spline(8, 4.0), "path"),
    Plan("anchored, forward", "anchor", Spline(8, 4.0), "forward"),
    Plan("anchored, mixed", "anchor", Spline(8, 4.0), "mixed"),
)


class _Context(nn.Module):
    """An MLP of all features of both coordinates."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2 * inputs, _WIDTH),
            nn.SiLU(),
            nn.Linear(_WIDTH, _WIDTH),
            nn.SiLU(),
            nn.Linear(_WIDTH, 2 * _CONTEXT),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features.flatten(1)).unflatten(1, (_CONTEXT, 2))


def planar_flow(density: Planar, plan: Plan) -> CouplingFlow:
    """Return an untrained flow of points (batch, 1, 2)."""
    bases: dict[BaseName, Base] = {"white": WhiteNoise(), "anchor": density.anchor}
    transforms: list[nn.Module] = [
        GlobalCoupling(
            torch.eye(2)[None],
            torch.ones(2),
            _CONTEXT,
            parity=index % 2 == 0,
            width=plan.width,
            elementwise=plan.maps,
        )
        for index in range(plan.couplings)
    ]
    transforms.append(ElementwiseMap(density.anchor.domain, 1, _CONTEXT, Affine()))
    return CouplingFlow(bases[plan.base], _Context(CouplingFlow.inputs(1)), transforms)


def planar_chains(density: Planar) -> HMC:
    """Return long chains for each measurement, with the exact density."""

    def log_target(points: Tensor, measured: Measurement) -> Tensor:
        return density.log_prob(points[:, 0]) + measured.log_likelihood(points)

    return HMC(density.anchor, log_target)


def exact_log_density(density: Planar) -> LogDensity:
    """Return the log-density as objectives take it."""

    def log_density(points: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        return density.log_prob(points[:, 0])

    return log_density


def objective(log_density: LogDensity, name: str) -> Objective:
    """Return a divergence by its name."""
    if name == "forward":
        return ForwardKL()
    if name == "reverse":
        return ReverseKL(log_density)
    path = PathReverseKL(log_density)
    return path if name == "path" else WeightedSum({ForwardKL(): 0.5, path: 0.5})


def train(
    density: Planar,
    plan: Plan,
    steps: int,
    seed: int,
    log_density: LogDensity | None = None,
) -> tuple[CouplingFlow, float]:
    """Return a trained flow and the processor's seconds that it took.

    The reverse divergence takes the exact log-density by default.
    """
    torch.manual_seed(seed)
    flow = planar_flow(density, plan)
    if plan.objective == "none":
        return flow, 0.0
    loss = objective(log_density or exact_log_density(density), plan.objective)
    anneal = Annealing(plan.annealing, steps)

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        anneal.apply(loss, step)
        truth = density.sample(_BATCH, generator)
        measured = density.measure(truth, generator)
        base = flow.base.posterior(measured)
        noise = torch.randn(1, _BATCH, base.noise_dim, generator=generator)
        moments = Moments.of(base, flow.functionals)
        batch = Batch(truth, moments, base.deviations(noise), flow.base)
        return loss(flow, batch, flow.condition(base), generator)

    start = time.process_time()
    fit_loop(flow, step_fn, Training(steps=steps, lr=2e-3, progress=False), seed=seed)
    return flow, time.process_time() - start


def score(
    density: Planar, method: Method, *, fields: int, members: int, seed: int
) -> dict[str, float]:
    """Return the scores of a method on measurements that it has not seen."""
    generator = torch.Generator().manual_seed(seed)
    truth = density.sample(fields, generator)
    measured = density.measure(truth, generator)
    exact = Quadrature(density, measured.values[:, 0, 0])
    draws = method.posterior(measured)
    drawn = draws.members(members, seed)
    points = drawn[:, :, 0]
    crps, energy = excess_scores(points.double(), exact.sample(members, generator))
    truths = truth[:, 0].double()
    found = calibration(points[..., 1], truths[:, 1], points, truths)
    if not isinstance(method, HMC):  # which has no density
        with torch.no_grad():
            found |= weight_scores(draws.log_prob(drawn), exact.log_prob(points.double()))
    return found | {"crps": crps, "energy": energy}


def _methods(density: Planar, steps: int, seed: int) -> Iterator[tuple[str, Method, float]]:
    """Yield all methods, with the seconds that each was trained for."""
    for plan in PLANS:
        yield plan.name, *train(density, plan, steps, seed)
    yield HMC.name, planar_chains(density), 0.0


def planar_rows(
    steps: int, *, fields: int, members: int, seed: int
) -> tuple[list[Row], list[PlanePanel]]:
    """Train and score all methods on all densities; return rows, and panels of a figure."""
    rows: list[Row] = []
    panels = []
    for kind in DENSITIES:
        density = kind()
        value = _SHOWN[kind]
        shown = Measurement.of(torch.tensor([[[value, torch.nan]]]), NOISE_STD)
        panel = PlanePanel(density.name, value, Quadrature(density, shown.values[:, 0, 0]), {})
        panels.append(panel)
        for name, method, seconds in _methods(density, steps, seed):
            found = score(density, method, fields=fields, members=members, seed=seed + 1)
            panel.members[name] = method.posterior(shown).members(_SHOWN_MEMBERS, seed)[:, 0, 0]
            start = time.perf_counter()
            method.posterior(shown).members(64, seed)
            spent = 1e3 * (time.perf_counter() - start)
            labels = {"problem": density.name, "method": name}
            rows.append({**labels, **found, "train_seconds": seconds, "sample_ms": spent})
            print(rows[-1], flush=True)
    return rows, panels
