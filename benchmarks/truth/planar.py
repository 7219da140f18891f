"""Two-dimensional densities whose posterior is known by quadrature: banana, ring, eight Gaussians.

The first coordinate is measured, y = x1 + n. The posterior of the ring has two arcs, that of the
eight Gaussians up to four modes, that of the banana is a bent ridge cut across.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from apsgeo.domains import GraphDomain
from apsgeo.gaussian.dense import DensePrior
from apsgeo.linalg.constants import LOG_2PI
from apsgeo.measurement import Measurement

NOISE_STD = 0.4
EXTENT = 4.5  # half the side of the square that holds all mass
POINTS = 300  # of the grid, along a side
_MOMENT_DRAWS = 100_000


def _log_normal(x: Tensor, std: float) -> Tensor:
    return -0.5 * ((x / std) ** 2 + LOG_2PI) - math.log(std)


class Planar(ABC):
    """A density of points (batch, 1, 2), with mean zero, and its Gaussian anchor."""

    name: str

    def __init__(self) -> None:
        domain = GraphDomain([[0.0, 0.0], [1.0, 0.0]], [[0], [1]])
        draws = self.sample(_MOMENT_DRAWS, torch.Generator().manual_seed(0))[:, 0].double()
        self.anchor = DensePrior(domain, draws.T @ draws / len(draws))

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 1, 2) points."""

    @abstractmethod
    def log_prob(self, points: Tensor) -> Tensor:
        """Return the log density (...,) of points (..., 2)."""

    def measure(self, truth: Tensor, generator: torch.Generator) -> Measurement:
        """Measure the first coordinate of points (batch, 1, 2)."""
        noise = NOISE_STD * torch.randn(truth.shape, generator=generator)
        hidden = torch.tensor([False, True])
        return Measurement.of((truth + noise).masked_fill(hidden, torch.nan), NOISE_STD)


class Banana(Planar):
    """x2 = (x1^2 - 1) / 2 + n / 4, with standard normal x1 and n."""

    name = "banana"

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 1, 2) points."""
        first, second = torch.randn(2, count, generator=generator)
        return torch.stack([first, 0.5 * (first**2 - 1.0) + 0.25 * second], -1)[:, None]

    def log_prob(self, points: Tensor) -> Tensor:
        """Return the log density (...,) of points (..., 2)."""
        first, second = points.unbind(-1)
        return _log_normal(first, 1.0) + _log_normal(second - 0.5 * (first**2 - 1.0), 0.25)


class Ring(Planar):
    """A uniform angle, and a radius that is N(2, 0.2^2)."""

    name = "ring"

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 1, 2) points."""
        angle = 2.0 * math.pi * torch.rand(count, generator=generator)
        radius = 2.0 + 0.2 * torch.randn(count, generator=generator)
        return (radius * torch.stack([angle.cos(), angle.sin()])).T[:, None]

    def log_prob(self, points: Tensor) -> Tensor:
        """Return the log density (...,) of points (..., 2)."""
        radius = points.norm(dim=-1).clamp(min=1e-3)
        return _log_normal(radius - 2.0, 0.2) - (2.0 * math.pi * radius).log()


class EightGaussians(Planar):
    """Equal weights on a circle of radius 2, each N(., 0.25^2 I)."""

    name = "eight Gaussians"
    std = 0.25

    def centres(self) -> Tensor:
        """Return the means (8, 2)."""
        angle = (torch.arange(8.0) + 0.5) * math.pi / 4.0
        return 2.0 * torch.stack([angle.cos(), angle.sin()], -1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 1, 2) points."""
        which = torch.randint(8, (count,), generator=generator)
        noise = torch.randn(count, 2, generator=generator)
        return (self.centres()[which] + self.std * noise)[:, None]

    def log_prob(self, points: Tensor) -> Tensor:
        """Return the log density (...,) of points (..., 2)."""
        each = _log_normal(points[..., None, :] - self.centres().to(points), self.std).sum(-1)
        return torch.logsumexp(each, -1) - math.log(8.0)


DENSITIES: tuple[type[Planar], ...] = (Banana, Ring, EightGaussians)


class Quadrature:
    """The exact posteriors of measured first coordinates, on a grid.

    Args:
        density: The prior.
        values: (batch,) what was measured.
    """

    def __init__(self, density: Planar, values: Tensor) -> None:
        self.density, self.values = density, values.double()
        axis = torch.linspace(-EXTENT, EXTENT, POINTS, dtype=torch.float64)
        self.step = float(axis[1] - axis[0])
        self.grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        joint = density.log_prob(self.grid) + self._log_likelihood(self.grid[..., 0])
        self.log_evidence = torch.logsumexp(joint.flatten(1), 1) + 2.0 * math.log(self.step)
        self.log_density = joint - self.log_evidence[:, None, None]

    def _log_likelihood(self, first: Tensor) -> Tensor:
        """Return log N(y; x1) of x1 (...), (batch, ...)."""
        values = self.values.reshape(-1, *[1] * first.ndim)
        return _log_normal(values - first, NOISE_STD)

    def log_prob(self, points: Tensor) -> Tensor:
        """Return the log density (member, batch) of points (member, batch, 2)."""
        likelihood = _log_normal(self.values - points[..., 0], NOISE_STD)
        return self.density.log_prob(points) + likelihood - self.log_evidence

    def sample(self, members: int, generator: torch.Generator) -> Tensor:
        """Draw (member, batch, 2): a cell of the grid, and a place in it."""
        weights = self.log_density.flatten(1).exp()
        cells = torch.multinomial(weights, members, replacement=True, generator=generator).T
        place = torch.rand(*cells.shape, 2, generator=generator, dtype=torch.float64) - 0.5
        return self.grid.flatten(0, 1)[cells] + self.step * place
