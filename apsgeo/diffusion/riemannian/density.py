"""Draws and log-densities of a diffusion on a manifold whose scores are known."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from apsgeo.diffusion.estimate import Estimate
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.values.brownian import Brownian
from apsgeo.values.manifold import Manifold

__all__ = ["MOST", "RiemannianDiffusion"]

MOST = 20.0
"""Time of Brownian motion, in squared radii, at which nothing is left of its start."""

_CONTROLS = 1025  # times of the quadrature of what errors usually are
_CURVED = 4.0  # squared radii, from which on steps are even in time rather than in its logarithm
_VALUES = 2**21  # values that are scored at once for a divergence


class RiemannianDiffusion(nn.Module, ABC):
    r"""Brownian motion of fields on a compact manifold, and its way back by scores.

    The value of each node walks on its own from the data to the uniform law (De Bortoli et al.
    2022, arXiv 2202.02763, with no drift). The clock t is the time of the walk, in squared radii
    (`apsgeo.values.brownian.Brownian`). A subclass gives the score, the gradient of log p_t, by
    which the reverse walk draws fields, and by which log-densities are known.

    Fields are (batch, ambient, node), as `Manifold` has the numbers; densities are with respect to
    the product of the Riemannian volumes of the nodes, in the units of the manifold.

    Args:
        domain: Domain of the fields.
        manifold: Compact manifold of the values; see `Brownian`.
        least: Time from which on the scores are known.
        variance: Variance (part, node), in squared radii, of values about a point that is usual:
            the walk is foreseen by it in estimates. Infinite, where all points are alike; its
            default.
        valid: Mask (node,), false where there are no values; all by default.

    Raises:
        InputError: If the manifold has no closed form, or `least` is no time.
    """

    variance: Tensor
    valid: Tensor

    def __init__(
        self,
        domain: Domain,
        manifold: Manifold,
        *,
        least: float = 1e-4,
        variance: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 < least < MOST:
            raise InputError(f"least={least}; give a time between 0 and {MOST}, such as 1e-4")
        self.domain, self.manifold, self.least = domain, manifold, least
        self.walk = Brownian(manifold)
        nodes = domain.num_nodes
        if variance is None:
            variance = torch.full((len(self.walk.parts), nodes), torch.inf)
        self.register_buffer("variance", variance.double())
        every = torch.ones(nodes, dtype=torch.bool)
        self.register_buffer("valid", every if valid is None else valid)

    @abstractmethod
    def score(self, points: Tensor, clock: float) -> Tensor:
        """Return the gradient (batch, node, ambient) of log p_t, a tangent vector at each node.

        Args:
            points: Points (batch, node, ambient).
            clock: Time t, from `least` to `MOST`.
        """

    def kept(self, clock: float) -> Tensor:
        """Return the share (part, node) of the walk's score that a usual point does not foretell.

        In a flat space it is exact; on a compact manifold a walk gets no farther than around it.
        """
        return 1.0 / (1.0 - math.expm1(-clock) / self.variance)

    def times(self, steps: int) -> list[float]:
        """Return the times of a reverse walk: even in log t, and in t where it is large."""
        fine = np.geomspace(self.least, MOST, 4096)
        place = np.log(fine) + fine / _CURVED
        return np.interp(np.linspace(place[-1], place[0], steps + 1), place, fine).tolist()

    @torch.no_grad()
    def draw(
        self, count: int, *, steps: int = 100, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw fields (count, ambient, node), float64, by a reverse geodesic random walk.

        From uniform points each step from t to s is exp of (t - s) score, and of noise of variance
        (t - s) s / t, which in a flat space is ancestral sampling (Ho et al. 2020). The last point
        moves by the score alone.

        Args:
            count: Number of fields.
            steps: Number of steps, each one evaluation of the score.
            generator: CPU generator of all noise.

        Raises:
            InputError: If ``steps`` is below 1.
        """
        if steps < 1:
            raise InputError(f"steps={steps}; give at least 1")
        like = self.variance.new_zeros(count, self.domain.num_nodes, self.manifold.ambient)
        x = self.walk.uniform(like, generator)
        times = self.times(steps)
        for now, then in pairwise(times):
            noise = math.sqrt((now - then) * then / now) * self.walk.noise(x, generator)
            x = self.walk.exp(x, (now - then) * self.score(x, now) + noise)
        x = self.walk.exp(x, times[-1] * self.score(x, times[-1]))
        return x.transpose(-1, -2)

    def elbo(
        self,
        fields: Tensor,
        *,
        generator: torch.Generator | None = None,
        samples: int = 1,
        points: int = 16,
    ) -> Estimate:
        r"""Estimate a lower bound of log p(x_0), without bias; differentiable.

        By denoising score matching: with x_t from the heat kernel K_t around x_0,

            log p(x_0) >= -KL(K_T, uniform) - 1/2 int_eps^T E|s_t - grad log K_t|^2 dt
                          + E log p(x_0 | x_eps),

        which is the bound of Huang et al. 2022 (arXiv 2208.07949) with its divergence integrated
        by parts; the entropies of K_t on the way cancel. p(x_0 | x_eps) is a heat kernel about
        exp(eps s). Of the reverse walk in small steps it holds at every x_0, and there is no gap
        but that of the reconstruction, if the score is exact.

        Args:
            fields: Fields (batch, ambient, node).
            generator: CPU generator of times and noise.
            samples: Number of independent passes; the standard error comes from their variance.
            points: Number of times in a pass, systematic in log t with one random offset.

        Returns:
            The estimate and its standard error, in nats, each (batch,), float64.

        Raises:
            InputError: If ``samples`` or ``points`` is below 1, or the shape does not fit.
        """
        if samples < 1 or points < 1:
            raise InputError(f"samples={samples}, points={points}; give at least 1 of each")
        start = self._points(fields)
        low, high = math.log(self.least), math.log(MOST)
        passes = []
        for _ in range(samples):
            value = self._constant(start) - 0.5 * self._foreseen
            offset = float(torch.rand((), generator=generator, dtype=torch.float64))
            for index in range(points):
                clock = math.exp(low + (index + offset) / points * (high - low))
                value = value - 0.5 * (high - low) / points * self._excess(start, clock, generator)
            passes.append(value + self._reconstruction(start, generator))
        return Estimate.of(torch.stack(passes))

    @torch.no_grad()
    def ode_log_prob(
        self,
        fields: Tensor,
        *,
        probes: int | None = None,
        steps: int = 60,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        r"""Return log p(x_0) by the change of variables along the probability flow.

        dx = -score / 2 dt has the laws of the walk, and the density changes along it by
        d log p = div score / 2 dt (Song et al. 2021, arXiv 2011.13456, eq. 39; on manifolds Lou et
        al. 2020, arXiv 2006.10254). Steps are those of Runge-Kutta's classical method, even in
        log t, projected onto the manifold. The heat equation leads from `least` to zero.

        Args:
            fields: Fields (batch, ambient, node).
            probes: Number of random signs of Hutchinson's estimate of the divergence, at least 2;
                None for the exact one, at the cost of as many scores as a field has coordinates.
            steps: Number of steps.
            generator: CPU generator of the signs.

        Returns:
            The value and its standard error in nats, each (batch,), float64; zero for the exact
            divergence. The error of the steps is not part of it.

        Raises:
            InputError: If ``probes`` is below 2, or the shape does not fit.
        """
        if probes is not None and probes < 2:
            raise InputError(f"probes={probes}; give at least 2, or None for the exact divergence")
        x = self._points(fields)
        directions = self._directions(probes, generator)
        low, high = math.log(self.least), math.log(MOST)
        h = (high - low) / steps
        total = x.new_zeros(1 if probes is None else probes, len(x))
        score, first = self._flow(x, self.least, directions, probes is None)
        size = score.square().flatten(1).sum(1)
        heat = 0.5 * self.least * (first + size)

        def rate(x: Tensor, place: float) -> tuple[Tensor, Tensor]:
            clock = math.exp(min(place, high))
            score, divergence = self._flow(x, clock, directions, probes is None)
            return -0.5 * clock * self._numbers(score), -0.5 * clock * divergence

        for step in range(steps):
            u = low + step * h
            a, da = rate(x, u)
            b, db = rate(self._back(x + 0.5 * h * a), u + 0.5 * h)
            c, dc = rate(self._back(x + 0.5 * h * b), u + 0.5 * h)
            d, dd = rate(self._back(x + h * c), u + h)
            x = self._back(x + h / 6.0 * (a + 2.0 * b + 2.0 * c + d))
            total = total + h / 6.0 * (da + 2.0 * db + 2.0 * dc + dd)
        values = self._uniform_log_prob + total - heat
        if probes is None:
            return Estimate(values[0], torch.zeros_like(values[0]))
        return Estimate.of(values)

    def _points(self, fields: Tensor) -> Tensor:
        """Return fields (batch, ambient, node) as points (batch, node, ambient), float64."""
        wanted = (self.manifold.ambient, self.domain.num_nodes)
        if fields.ndim != 3 or tuple(fields.shape[1:]) != wanted:
            raise InputError(
                f"the fields have shape {tuple(fields.shape)}; expected (batch, ambient, node) = "
                f"(batch, {wanted[0]}, {wanted[1]})"
            )
        points = fields.transpose(-1, -2).double()
        origin = self.walk.origin.to(points)
        return torch.where(self.valid[:, None], points, origin)

    def _summed(self, each: Tensor) -> Tensor:
        """Return the sum (...) over parts and valid nodes of (part, ..., node)."""
        return (each * self.valid).sum(-1).sum(0)

    def _by_part(self, vectors: Tensor) -> Tensor:
        """Return the squared lengths (part, ..., node) of vectors (..., node, ambient)."""
        return torch.stack([own.square().sum(-1) for own in self.walk.split(vectors)])

    def _of_parts(self, values: list[float]) -> Tensor:
        """Return one number of each part as (part, 1)."""
        return torch.tensor(values, dtype=torch.float64, device=self.valid.device)[:, None]

    @property
    def _uniform_log_prob(self) -> float:
        each = [part.log_measure - part.log_volume for part in self.walk.parts]
        return float(self.valid.sum()) * sum(each)

    def _constant(self, start: Tensor) -> Tensor:
        """Return what the bound has whatever the scores are."""
        each = [part.log_measure - part.divergence(MOST) for part in self.walk.parts]
        return start.new_full((len(start),), float(self.valid.sum()) * sum(each))

    @property
    def _foreseen(self) -> float:
        """Integral over the times of what `_excess` leaves out."""
        places = torch.linspace(math.log(self.least), math.log(MOST), _CONTROLS)
        rows = [self._usual(math.exp(place)) for place in places.tolist()]
        return float(torch.trapezoid(torch.stack(rows), places.to(rows[0])))

    def _usual(self, clock: float) -> Tensor:
        """Return about t times the squared error that scores have, summed.

        Whatever it is, the bound stays what it is: the nearer, the less chance is in the times.
        """
        dims = self._of_parts([float(part.cover.dim) for part in self.walk.parts])
        return self._summed(math.exp(-clock) * dims * self.kept(clock))

    def _excess(self, start: Tensor, clock: float, generator: torch.Generator | None) -> Tensor:
        """Estimate t E|s - grad log K|^2 (batch,) less `_usual`, without bias.

        What the walk itself does, |grad log K|^2 less its mean, is a control variate.
        """
        x = self.walk.draw(start, clock, generator)
        target = self.walk.score(start, x, clock)
        error = self._by_part(self.score(x, clock) - target)
        information = self._of_parts([part.information(clock) for part in self.walk.parts])
        chance = self._by_part(target) - information[:, None]
        kept = self.kept(clock)[:, None]
        return clock * self._summed(error - kept.square() * chance) - self._usual(clock)

    def _reconstruction(self, start: Tensor, generator: torch.Generator | None) -> Tensor:
        """Estimate E log p(x_0 | x_eps) (batch,), on the cover."""
        x = self.walk.draw(start, self.least, generator)
        centre = self.walk.exp(x, self.least * self.score(x, self.least))
        log_prob, chance = [], []
        kept = self.kept(self.least)
        split = zip(*(self.walk.split(each) for each in (start, x, centre)), strict=True)
        for part, width, (x0, there, middle) in zip(self.walk.parts, kept, split, strict=True):
            log_prob.append(part.log_density(middle, x0, self.least * width))
            away = part.cover.distance(x0, there).double().square()
            chance.append((away - part.square(self.least)) / self.least * width)
        return self._summed(torch.stack(log_prob) + 0.5 * torch.stack(chance))

    def _back(self, numbers: Tensor) -> Tensor:
        return self.walk.each(lambda part, x: part.cover.project(x), numbers)

    def _numbers(self, vectors: Tensor) -> Tensor:
        """Return how fast the numbers of a point change along tangent vectors."""
        return self.walk.each(lambda part, v: v / part.radius, vectors)

    def _directions(self, probes: int | None, generator: torch.Generator | None) -> Tensor:
        """Return random signs, or every unit vector, (direction, node, dim)."""
        nodes = self.valid.nonzero()[:, 0].cpu()
        shape = (self.domain.num_nodes, self.manifold.dim)
        if probes is None:
            count = len(nodes) * shape[1]
            whole = torch.zeros(len(nodes), shape[1], *shape, dtype=torch.float64)
            row, column = torch.arange(len(nodes)), torch.arange(shape[1])
            whole[row[:, None], column, nodes[:, None], column] = 1.0
            return whole.reshape(count, *shape).to(self.valid.device)
        bits = torch.randint(2, (probes, *shape), generator=generator)
        return (2.0 * bits.double() - 1.0).to(self.valid.device) * self.valid[:, None]

    def _flow(
        self, x: Tensor, clock: float, directions: Tensor, total: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the score, and its divergence (direction, batch), or (1, batch) if summed.

        The divergence of a tangent field is that of its numbers along the manifold.
        """
        batch = len(x)
        frames = self._frames(x)
        score, found = self.score(x, clock), []
        for part in directions.split(max(1, _VALUES // x.numel())):

            def moved(step: Tensor, part: Tensor = part) -> Tensor:
                ends = self.walk.exp(
                    x.repeat(len(part), 1, 1),
                    torch.einsum("bnad,kbnd->kbna", frames, step).flatten(0, 1),
                )
                return self.score(ends, clock).unflatten(0, (len(part), batch))

            found.append(_slope(moved, frames, part[:, None].expand(-1, batch, -1, -1)))
        slopes = torch.cat(found)
        return score, slopes.sum(0, keepdim=True) if total else slopes

    def _frames(self, x: Tensor) -> Tensor:
        """Return frames (batch, node, ambient, dim)."""
        whole = x.new_zeros(*x.shape, self.manifold.dim)
        row = column = 0
        for part, own in zip(self.walk.parts, self.walk.split(x), strict=True):
            frame = part.cover.frame(own)
            whole[..., row : row + frame.shape[-2], column : column + frame.shape[-1]] = frame
            row, column = row + frame.shape[-2], column + frame.shape[-1]
        return whole


def _slope(field: Callable[[Tensor], Tensor], frames: Tensor, directions: Tensor) -> Tensor:
    """Return d^T (d field / d step) d (direction, batch) of directions (direction, batch, ...)."""
    step = torch.zeros_like(directions).requires_grad_()
    with torch.enable_grad():
        along = torch.einsum("bnad,kbna->kbnd", frames, field(step))
        (pulled,) = torch.autograd.grad((along * directions).sum(), step)
    return (pulled * directions).flatten(2).sum(2)
