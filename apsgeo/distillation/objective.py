"""Objectives of a flow's training: the amortized KL divergences, and scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from apsgeo.distillation.pairs import Batch
from apsgeo.errors import InputError
from apsgeo.flows.flow import Conditioning, Flow
from apsgeo.flows.spectral import SpectralConditioning, SpectralFlow
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.independent import Independent

__all__ = [
    "CRPS",
    "Annealing",
    "FollowingReverseKL",
    "ForwardKL",
    "LeadingForwardKL",
    "LogDensity",
    "Objective",
    "PathReverseKL",
    "ReverseKL",
    "WeightedSum",
    "fair_crps",
    "frozen",
]

LogDensity = Callable[[Tensor, Batch, torch.Generator], Tensor]
"""Estimate log p(x) (batch,) of standardized fields (batch, channel, node), differentiably."""


class Objective(Protocol):
    """A loss of a flow on a batch of pairs, in nats (or units of the data) per node."""

    def __call__(
        self, flow: Flow, batch: Batch, conditioning: Conditioning, generator: torch.Generator
    ) -> Tensor:
        """Return a scalar."""
        ...


def _nodes(batch: Batch) -> int:
    return batch.truth[0].numel()


def _energy(batch: Batch, deviation: Tensor) -> Tensor:
    """Return -log q of the base (batch,) at deviations from its mean, up to a constant."""
    if isinstance(batch.base, Independent):  # which the moments tell all about
        return 0.5 * (deviation / batch.start.std()).square().flatten(1).sum(1)
    return batch.base.posterior(batch.measurement).energy(deviation[None])[0]


class ForwardKL:
    """The loss -log q(x | y) of the true field: maximum likelihood on pairs, mass-covering."""

    def __call__(
        self, flow: Flow, batch: Batch, conditioning: Conditioning, generator: torch.Generator
    ) -> Tensor:
        """Return the loss up to the base's normalizing constant, which has no parameters."""
        deviation, log_det = flow.pull(batch.truth[None], conditioning)
        return (_energy(batch, deviation[0]) + log_det[0]).mean() / _nodes(batch)


class LeadingForwardKL:
    """The loss -log q of the true field's leading coefficient alone, for a `SpectralFlow`.

    This first factor of the chain rule decides how much mass each mode has. It has one dimension,
    where the whole field has as many as nodes. Path gradients cannot decide it, since no path
    crosses from one mode to another.
    """

    def __call__(
        self, flow: Flow, batch: Batch, conditioning: Conditioning, generator: torch.Generator
    ) -> Tensor:
        """Return the loss.

        Raises:
            InputError: If the flow has no leading coefficient.
        """
        spectral = _spectral(flow, conditioning)
        assert isinstance(flow, SpectralFlow)
        return -flow.leading_log_prob(batch.truth, spectral).mean() / _nodes(batch)


def _spectral(flow: Flow, conditioning: Conditioning) -> SpectralConditioning:
    """Check that a flow has a leading coefficient, and return its conditioning."""
    if not (isinstance(flow, SpectralFlow) and isinstance(conditioning, SpectralConditioning)):
        raise InputError(f"{type(flow).__name__} has no leading coefficient; use SpectralSpec.")
    return conditioning


class ReverseKL:
    r"""The paper's amortized objective, E_z [ |y - A G|^2 / 2 r^2 - log p(G) - log |det dG/dz| ].

    `log_density` estimates log p_theta of a batch of fields: the evidence lower bound of a
    diffusion prior, or its anchored estimate (arXiv 2407.17907; see docs/method.md). Above one,
    `temperature` divides the first two terms: see `Annealing`.
    """

    def __init__(self, log_density: LogDensity) -> None:
        self.log_density, self.temperature = log_density, 1.0

    def _target(self, fields: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return log p(x) + log p(y | x) (batch,) of fields (batch, channel, node)."""
        target = batch.measurement.log_likelihood(fields)
        return (target + self.log_density(fields, batch, generator)) / self.temperature

    def __call__(
        self, flow: Flow, batch: Batch, conditioning: Conditioning, generator: torch.Generator
    ) -> Tensor:
        """Return the loss over one member of each field."""
        which = int(torch.randint(len(batch.deviations), (), generator=generator))
        fields, log_det = flow.push(batch.deviations[which : which + 1], conditioning)
        loss = -self._target(fields[0], batch, generator) - log_det[0]
        return loss.mean() / _nodes(batch)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Keep the parameters of a module out of gradients, within the context."""
    trainable = [each for each in module.parameters() if each.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


class PathReverseKL(ReverseKL):
    """The reverse divergence, with its gradient taken along the members' paths only.

    The inverse evaluates log q with frozen weights. Once q is the posterior, the gradient of the
    loss is then zero for every member, and not on average only ("sticking the landing"; Roeder et
    al. 2017, arXiv 1703.09194). It costs a second evaluation of the transforms.
    """

    def __call__(
        self, flow: Flow, batch: Batch, conditioning: Conditioning, generator: torch.Generator
    ) -> Tensor:
        """Return the loss over one member of each field, up to the base's normalizing constant."""
        which = int(torch.randint(len(batch.deviations), (), generator=generator))
        fields, _ = flow.push(batch.deviations[which : which + 1], conditioning)
        with frozen(flow):
            deviation, log_det = flow.pull(fields, conditioning.detach())
        target = self._target(fields[0], batch, generator)
        return (-_energy(batch, deviation[0]) - log_det[0] - target).mean() / _nodes(batch)


class FollowingReverseKL(PathReverseKL):
    """The path divergence of a `SpectralFlow`, with the map of its leading coefficient fixed.

    Where a flow follows modes unequally well, the reverse divergence is least at their true weights
    times exp(-KL) of each. Therefore `LeadingForwardKL` alone decides the weights.
    """

    def __call__(
        self, flow: Flow, batch: Batch, conditioning: Conditioning, generator: torch.Generator
    ) -> Tensor:
        """Return the loss over one member of each field.

        Raises:
            InputError: If the flow has no leading coefficient.
        """
        return super().__call__(
            flow, batch, _spectral(flow, conditioning).with_leading_held(), generator
        )


def fair_crps(members: Tensor, truth: Tensor) -> Tensor:
    """Return the fair CRPS of members (member, ...) against truth (...), elementwise.

    mean |x - t| - sum_{i<j} |x_i - x_j| / (m (m - 1)), unbiased in the number of members
    (Ferro 2014, https://doi.org/10.1002/qj.2270).
    """
    count = len(members)
    error = (members - truth).abs().mean(0)
    spread = torch.zeros_like(truth)
    for lag in range(1, count):
        spread = spread + (members[lag:] - members[:-lag]).abs().sum(0)
    return error - spread / (count * (count - 1))


def normal_crps(mean: Tensor, std: Tensor, truth: Tensor) -> Tensor:
    """Return the CRPS of normal distributions, elementwise; differentiable.

    Equation 5 of Gneiting et al. (2005, https://doi.org/10.1175/MWR2904.1).
    """
    z = (truth - mean) / std
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)
    return std * (z * torch.erf(z / math.sqrt(2.0)) + 2.0 * density - 1.0 / math.sqrt(math.pi))


def _knows_std(batch: Batch) -> bool:
    """Tell whether the standard deviation of the base is exact, and not an estimate by draws."""
    base = batch.base
    return isinstance(base, VecchiaPrior) and base.takes(batch.measurement.operator)


class CRPS:
    """The continuous ranked probability score over the nodes, relative to that of the base.

    A field that few observations tell about has a large score whatever is drawn; relative to the
    base all fields count alike. Where the flow's marginals are normal and known, their score is
    exact, and its gradient has far less noise than that of a few members.

    The score of each node knows no correlations. On several scales, members' means over ever larger
    groups of nodes are scored, too (Lang et al. 2024, *AIFS-CRPS*, arXiv 2412.15832; Lang et al.
    2025, arXiv 2506.10868): what nodes have in common is then to be right. Of two members, where
    one scale takes four: the score is fair, and each tells more.

    Args:
        weights: Weights (season, channel, node): area times the normals' standard deviation.
        std: Standard deviation (season, channel, node) of the normals; needed for several scales.
        pools: Means over groups of nodes, over groups of these groups, and so on, each with the
            areas (group,) of its groups; none by default.
    """

    members = 4

    def __init__(
        self,
        weights: Tensor,
        std: Tensor | None = None,
        pools: Sequence[tuple[nn.Module, Tensor]] = (),
    ) -> None:
        self._mean = weights.mean()
        self.weights, self.std, self.pools = weights / self._mean, std, pools

    def __call__(
        self, flow: Flow, batch: Batch, conditioning: Conditioning, generator: torch.Generator
    ) -> Tensor:
        """Return the members' score, summed over scales, relative to the base's at the nodes."""
        weights = self.weights[batch.season].to(batch.truth)
        normal = flow.marginals(conditioning)
        wider: Tensor | float = 0.0
        if normal is None or self.pools or not _knows_std(batch):
            deviations = batch.deviations[: 2 if self.pools else self.members]
            fields, _ = flow.push(deviations, conditioning)
            score = fair_crps(fields, batch.truth)
            start = fair_crps(batch.start.mean + deviations, batch.truth)
            wider = self.wider(fields, batch) / float(self._mean)
        else:
            score = normal_crps(*normal, batch.truth)
            start = normal_crps(batch.start.mean, batch.start.std(), batch.truth)
        totals = [(each * weights).flatten(1).sum(1) for each in (score, start)]
        return ((totals[0] + wider) / totals[1]).mean()

    def wider(self, fields: Tensor, batch: Batch) -> Tensor | float:
        """Return the area times the score of means over groups (batch,), summed over all scales.

        Zero where members are scored at the nodes alone.
        """
        total: Tensor | float = 0.0
        if not self.pools or self.std is None:
            return total
        scale = self.std[batch.season].to(fields)
        both = torch.cat([fields, batch.truth[None]]) * scale
        shape = both.shape[:2]
        for pool, areas in self.pools:
            both = pool(both.flatten(0, 1)).unflatten(0, shape)
            score = fair_crps(both[:-1], both[-1]) * areas.to(both)
            total = total + score.flatten(1).sum(1)
        return total


class WeightedSum:
    """A weighted sum of objectives, such as the mixed divergence."""

    def __init__(self, terms: Mapping[Objective, float]) -> None:
        self.terms = dict(terms)

    def __call__(
        self, flow: Flow, batch: Batch, conditioning: Conditioning, generator: torch.Generator
    ) -> Tensor:
        """Return the sum."""
        parts = [w * term(flow, batch, conditioning, generator) for term, w in self.terms.items()]
        return torch.stack(parts).sum()


@dataclass(frozen=True)
class Annealing:
    """The temperature of the target of a reverse divergence, in the course of training.

    A flow that starts between modes, or at one of them, falls into the nearest. At a high
    temperature T, the posterior to the power 1/T has its modes joined. T falls geometrically to one
    over the first half of the steps (Mandt et al. 2016, *Variational tempering*, arXiv 1411.1810).

    Attributes:
        first: Temperature at the start; one for no annealing.
        steps: Number of steps of the training.
    """

    first: float
    steps: int

    def temperature(self, step: int) -> float:
        """Return the temperature at a step."""
        return max(1.0, self.first ** (1.0 - 2.0 * step / self.steps))

    def apply(self, objective: Objective, step: int) -> None:
        """Set the temperature of all reverse divergences in an objective."""
        if isinstance(objective, WeightedSum):
            for term in objective.terms:
                self.apply(term, step)
        elif isinstance(objective, ReverseKL):
            objective.temperature = self.temperature(step)
