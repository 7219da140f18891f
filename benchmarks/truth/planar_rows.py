"""The two-dimensional rows of the truth suite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from apsgeo.flows.base import Base, BasePosterior, FixedBase, Moments, StandardNormalBase
from torch import Tensor, nn

from apsgeo.diagnostics import ranks, tarp_ranks, uniformity
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
from apsgeo.flows.flow import ConditionalFlow, Conditioning
from apsgeo.flows.patterns import GlobalCoupling
from apsgeo.measurement import Measurement
from apsgeo.optim.loop import fit_loop
from apsgeo.optim.training import Training
from benchmarks.truth.chains import HMC, hmc
from benchmarks.truth.figure import Panel
from benchmarks.truth.planar import (
    DENSITIES,
    NOISE_STD,
    Banana,
    EightGaussians,
    Planar,
    Quadrature,
    Ring,
)
from benchmarks.truth.scores import Row, excess_scores, weight_scores

__all__ = ["METHODS", "Method", "PlanarFlow", "planar_rows", "train"]

_CONTEXT = 8
_BATCH = 128
_WIDTH = 64
_SHOWN = {Banana: 1.0, Ring: 0.8, EightGaussians: 0.8}
"""The value that was measured in the figure."""
_SHOWN_MEMBERS = 1000


@dataclass(frozen=True)
class Method:
    """How a flow of points is built and trained."""

    name: str
    base: str
    maps: Elementwise
    objective: str
    couplings: int = 4
    width: int = 64
    annealing: float = 1.0


METHODS = (
    Method("paper's form", "normal", Affine(), "reverse", couplings=8),
    Method("anchored, untrained", "gaussian", Affine(), "none"),
    Method("anchored, reverse", "gaussian", Spline(8, 4.0), "path"),
    Method("anchored, forward", "gaussian", Spline(8, 4.0), "forward"),
    Method("anchored, mixed", "gaussian", Spline(8, 4.0), "mixed"),
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


class PlanarFlow:
    """A conditional flow of points (batch, 1, 2), and how it meets a measurement."""

    def __init__(self, density: Planar, method: Method) -> None:
        self.base: Base = FixedBase(density.anchor)
        if method.base == "normal":
            self.base = StandardNormalBase(1, 2)
        transforms: list[nn.Module] = [
            GlobalCoupling(
                torch.eye(2)[None],
                torch.ones(2),
                _CONTEXT,
                parity=index % 2 == 0,
                width=method.width,
                elementwise=method.maps,
            )
            for index in range(method.couplings)
        ]
        transforms.append(ElementwiseMap(density.anchor.domain, 1, _CONTEXT, Affine()))
        context = _Context(ConditionalFlow.inputs(1, 0))
        self.flow = ConditionalFlow(self.base, context, transforms)

    def start(self, given: Measurement) -> tuple[BasePosterior, Conditioning]:
        """Return the base's posterior, and what the transforms see."""
        base = self.base.posterior(given, torch.zeros(len(given), dtype=torch.long))
        return base, self.flow.condition(base)

    @torch.no_grad()
    def draw(
        self, given: Measurement, members: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return points (member, batch, 2) and log q of them (member, batch)."""
        base, seen = self.start(given)
        noise = torch.randn(members, len(given), base.noise_dim, generator=generator)
        deviation = base.deviations(noise)
        points, log_det = self.flow.push(deviation, seen)
        return points[:, :, 0], base.peak_log_prob().to(points) - base.energy(deviation) - log_det


class PlanarChains:
    """Long chains of Hamiltonian Monte Carlo for each measurement, with the exact density."""

    name = "HMC"

    def __init__(self, density: Planar) -> None:
        self.density = density

    def draw(
        self, given: Measurement, members: int, generator: torch.Generator
    ) -> tuple[Tensor, None]:
        """Return points (member, batch, 2); log q is not known."""

        def log_target(points: Tensor, given: Measurement) -> Tensor:
            return self.density.log_prob(points[:, 0]) + given.log_likelihood(points)

        found = hmc(self.density.anchor, log_target, given, members, HMC(), generator)
        return found.fields[:, :, 0], None


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
    method: Method,
    steps: int,
    seed: int,
    log_density: LogDensity | None = None,
) -> tuple[PlanarFlow, float]:
    """Return a trained flow and the processor's seconds that it took.

    The reverse divergence takes the exact log-density, or the one given.
    """
    torch.manual_seed(seed)
    made = PlanarFlow(density, method)
    if method.objective == "none":
        return made, 0.0
    loss = objective(log_density or exact_log_density(density), method.objective)

    anneal = Annealing(method.annealing, steps)

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        anneal.apply(loss, step)
        truth = density.sample(_BATCH, generator)
        given = density.measure(truth, generator)
        base, seen = made.start(given)
        noise = torch.randn(1, _BATCH, base.noise_dim, generator=generator)
        season = torch.zeros(_BATCH, dtype=torch.long)
        deviations = base.deviations(noise)
        moments = Moments.of(base, made.flow.functionals)
        batch = Batch(truth, moments, deviations, season, made.base)
        return loss(made.flow, batch, seen, generator)

    start = time.process_time()
    fit_loop(made.flow, step_fn, Training(steps=steps, lr=2e-3, progress=False), seed=seed)
    return made, time.process_time() - start


def score(
    density: Planar, made: PlanarFlow | PlanarChains, *, fields: int, members: int, seed: int
) -> dict[str, float]:
    """Return the scores of a method on measurements that it has not seen."""
    generator = torch.Generator().manual_seed(seed)
    truth = density.sample(fields, generator)
    given = density.measure(truth, generator)
    exact = Quadrature(density, given.values[:, 0, 0])
    points, log_q = made.draw(given, members, generator)
    crps, energy = excess_scores(points.double(), exact.sample(members, generator))
    truths = truth[:, 0].double()
    found = {
        "sbc": uniformity(ranks(points[..., 1], truths[:, 1]), members).p_value,
        "tarp": uniformity(tarp_ranks(points, truths), members).p_value,
    }
    if log_q is not None:
        found |= weight_scores(log_q, exact.log_prob(points.double()))
    return found | {"crps": crps, "energy": energy}


def _methods(
    density: Planar, steps: int, seed: int
) -> Iterator[tuple[str, PlanarFlow | PlanarChains, float]]:
    """Yield all methods, with the seconds that each was trained for."""
    for method in METHODS:
        yield method.name, *train(density, method, steps, seed)
    yield PlanarChains.name, PlanarChains(density), 0.0


def planar_rows(
    steps: int, *, fields: int, members: int, seed: int
) -> tuple[list[Row], list[Panel]]:
    """Train and score all methods on all densities; also return what a figure shows of them."""
    rows, panels = [], []
    for kind in DENSITIES:
        density = kind()
        value = _SHOWN[kind]
        shown = Measurement.of(torch.tensor([[[value, torch.nan]]]), NOISE_STD)
        panel = Panel(density.name, value, Quadrature(density, shown.values[:, 0, 0]), {})
        panels.append(panel)
        for name, made, seconds in _methods(density, steps, seed):
            found = score(density, made, fields=fields, members=members, seed=seed + 1)
            points, _ = made.draw(shown, _SHOWN_MEMBERS, torch.Generator().manual_seed(seed))
            panel.members[name] = points[:, 0]
            start = time.perf_counter()
            made.draw(shown, 64, torch.Generator())
            spent = 1e3 * (time.perf_counter() - start)
            row = Row(density.name, name, **found, train_seconds=seconds, sample_ms=spent)
            rows.append(row)
            print(row, flush=True)
    return rows, panels
