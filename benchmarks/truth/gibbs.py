r"""Long chains for a diffusion prior and noisy values of some nodes: a split Gibbs sampler.

Let y = x + v n at the observed nodes, and z = x + v n at all nodes, with z = y where observed: the
measured values are values of the diffused field z itself (Cardoso et al. 2023, arXiv 2308.07983).
Then x and z have the joint density p(x) N(z; x, v^2 I), whose marginal in x is the posterior:

- z | x is white noise about x at hidden nodes, and y at the others;
- x | z is the end of the reverse diffusion that starts from z at the noise v (Vono, Dobigeon &
  Chainais 2019, arXiv 1804.05809; Coeurdoux, Dobigeon & Chainais 2023, arXiv 2304.11134; Xu & Chi
  2024, arXiv 2403.17042). Since v is the noise of the measurement, splitting costs no accuracy;
- between the two, z moves by Langevin's dynamics, whose force is (E[x | z] - z) / v^2 with the
  measured values held. One evaluation of the denoiser goes about as far as a whole reverse
  diffusion does.

Chains begin at draws of the prior, with a greater noise of the measurement, which falls step by
step. Between two noises the chains of a measurement are weighted by the ratio of the likelihoods
and drawn again (sequential Monte Carlo; Del Moral, Doucet & Jasra 2006, doi
10.1111/j.1467-9868.2006.00553.x), so that modes have their weights although no chain passes
between them at the end; the prior cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from apsgeo.diffusion.denoiser import AnchoredDenoiser
from apsgeo.errors import InputError
from apsgeo.measurement import Measurement

__all__ = ["Plan", "Process", "chains"]

_PART_VALUES = 60_000  # values denoised at once: what a cache holds
_SHIFT = 0.1  # of a finite difference, in standard deviations of the noise


@dataclass(frozen=True)
class Plan:
    """How long chains are, and how fine.

    Attributes:
        ratio: Of the noises of neighbouring steps of a reverse diffusion, at most.
        highest, lowest: Noise at which a draw of the prior begins, and at which a reverse
            diffusion ends, in standard deviations of the data.
        rest, rest_moves: Noise at which a draw of the prior settles, and its Langevin steps there.
        first: Noise of the measurement at the start.
        falling: Ratio of its neighbouring values, at most.
        moves: Langevin steps at each of these.
        depth: Ratio of the noises between which the reverse diffusion runs there.
        sweeps, sweep_moves: Sweeps at the true noise, and Langevin steps in each.
        step: Length of a Langevin step in v^2, below 2.
    """

    ratio: float = 2.2
    highest: float = 60.0
    lowest: float = 0.02
    rest: float = 0.5
    rest_moves: int = 60
    first: float = 4.0
    falling: float = 1.3
    moves: int = 4
    depth: float = 10.0
    sweeps: int = 2
    sweep_moves: int = 50
    step: float = 0.8


def _levels(start: float, stop: float, ratio: float) -> list[float]:
    """Return noises from start to stop, equally spaced in their logarithm."""
    steps = max(1, math.ceil(math.log(start / stop) / math.log(ratio)))
    return [start * (stop / start) ** (step / steps) for step in range(steps + 1)]


class Process:
    """The diffusion s = x + v n of a denoiser, from any noise v: states are (field, channel, node).

    Args:
        denoiser: What E[x | s] is; what it does to finished samples (`calibrated`) is left out.
        plan: Of which `ratio`, `highest`, `lowest` and `step` are used.
        generator: Of all noise.
    """

    def __init__(self, denoiser: AnchoredDenoiser, plan: Plan, generator: torch.Generator) -> None:
        self._denoiser, self._plan, self._generator = denoiser, plan, generator

    def white(self, like: Tensor) -> Tensor:
        """Return white noise of the shape of fields."""
        return torch.randn(like.shape, generator=self._generator)

    @torch.no_grad()
    def denoise(self, state: Tensor, noise_std: float) -> Tensor:
        """Return E[x | s]."""
        parts = state.split(max(1, _PART_VALUES // state[0].numel()))
        return torch.cat([self._denoiser.denoise(part, noise_std) for part in parts])

    def prior(self, count: int) -> Tensor:
        """Draw fields of the prior.

        On the way they settle: a trained denoiser is not that of one density at all noises, and
        what comes down from higher noises is not yet at home where chains will move.
        """
        denoiser, plan = self._denoiser, self._plan
        white = torch.zeros(count, denoiser.channels, denoiser.domain.num_nodes)
        anchor = denoiser.anchor
        # At the highest noise the prior is as good as Gaussian.
        start = self.white(white) if anchor is None else anchor.sample(count, self._generator)
        state = self._fall(start + plan.highest * self.white(white), plan.highest, plan.rest)
        free = torch.ones_like(state, dtype=torch.bool)
        return self.reverse(self.walk(state, free, plan.rest, plan.rest_moves), plan.rest)

    def reverse(self, state: Tensor, noise_std: float, lowest: float | None = None) -> Tensor:
        """Draw x given s = x + v n, by steps down to the lowest noise, where it is denoised."""
        lowest = self._plan.lowest if lowest is None else lowest
        return self.denoise(self._fall(state, noise_std, lowest), lowest)

    def _fall(self, state: Tensor, noise_std: float, lowest: float) -> Tensor:
        """Draw the state at a lower noise.

        Each step draws s' = k s + (1 - k) x + v' (1 - k)^(1/2) n, k = (v' / v)^2, with x from a
        Gaussian that has the first two moments of x given s: E[x | s] = D and v^2 J, where J is
        the Jacobian of D (Meng, Song, Li & Ermon 2021, arXiv 2111.04726). Its root is applied to
        noise as v (2 J - J^2), by finite differences: exact where J is zero or one.
        """
        for now, then in pairwise(_levels(noise_std, lowest, self._plan.ratio)):
            clean = self.denoise(state, now)
            once = self._spread(state, clean, self.white(state), now)
            drawn = clean + now * (2.0 * once - self._spread(state, clean, once, now))
            kept = (then / now) ** 2
            state = kept * state + (1.0 - kept) * drawn
            state = state + then * math.sqrt(1.0 - kept) * self.white(state)
        return state

    def _spread(self, state: Tensor, clean: Tensor, direction: Tensor, noise_std: float) -> Tensor:
        """Return the Jacobian of the denoiser times a direction."""
        shift = _SHIFT * noise_std
        return (self.denoise(state + shift * direction, noise_std) - clean) / shift

    def walk(self, state: Tensor, free: Tensor, noise_std: float, moves: int) -> Tensor:
        """Move states by Langevin's dynamics where free, at one noise.

        The noise of a step is the mean of two that are neighbours in time (Leimkuhler & Matthews
        2013, doi 10.1093/amrx/abs010), which leaves a Gaussian as it is, whatever the step.
        """
        step, before = self._plan.step, self.white(state)
        for _ in range(moves):
            now = self.white(state)
            moved = state + step * (self.denoise(state, noise_std) - state)
            moved = moved + noise_std * math.sqrt(step / 2.0) * (before + now)
            state, before = torch.where(free, moved, state), now
        return state

    def choose(self, fields: Tensor, log_weight: Tensor, members: int) -> Tensor:
        """Draw so many of fields (draw, batch, ...) by weights (draw, batch), systematically."""
        ends = log_weight.T.softmax(1).cumsum(1).contiguous()
        offset = torch.rand(len(ends), 1, generator=self._generator, dtype=ends.dtype)
        places = (torch.arange(members, dtype=ends.dtype) + offset) / members
        kept = torch.searchsorted(ends, places).clamp(max=len(fields) - 1).T
        return fields.gather(0, kept[..., None, None].expand(-1, -1, *fields.shape[2:]))


def chains(process: Process, given: Measurement, start: Tensor, members: int, plan: Plan) -> Tensor:
    """Return the ends (member, batch, channel, node) of chains, one a member of each measurement.

    Args:
        process: The diffusion of the prior, of standardized anomalies.
        given: Values of nodes, all with one noise.
        start: Draws of the prior (draw, channel, node), among which the chains of each measurement
            find theirs by the likelihood at the first noise.
        members: Chains of a measurement.
        plan: How long they are.

    Raises:
        InputError: If the observations are other than nodes, or their noises differ.
    """
    noises = given.noise_std[given.mask].unique()
    if not given.operator.is_identity or given.scale is not None or len(noises) > 1:
        raise InputError(
            f"the chains need values of nodes with one noise, not {given.operator!r} and "
            f"{len(noises)} noises."
        )
    noise_std = float(noises)
    values, hidden = (x.repeat(members, 1, 1) for x in (given.values, ~given.mask))

    def misfit(fields: Tensor) -> Tensor:
        """Return |A x - y|^2 (member, batch) of fields (member, batch, channel, node)."""
        return torch.where(given.mask, fields - given.values, 0.0).double().square().sum((2, 3))

    def sweep(fields: Tensor, noise_std: float, moves: int, lowest: float | None = None) -> Tensor:
        fields = fields.flatten(0, 1)
        state = torch.where(hidden, fields + noise_std * process.white(fields), values)
        state = process.walk(state, hidden, noise_std, moves)
        return process.reverse(state, noise_std, lowest).reshape(members, *given.shape)

    fields, precision = start[:, None].expand(-1, *given.shape), 0.0
    for level in _levels(plan.first, noise_std, plan.falling):
        log_weight = 0.5 * (precision - level**-2) * misfit(fields)
        precision = level**-2
        fields = process.choose(fields, log_weight, members)
        fields = sweep(fields, level, plan.moves, level / plan.depth)
    for _ in range(plan.sweeps):
        fields = sweep(fields, noise_std, plan.sweep_moves)
    return fields
