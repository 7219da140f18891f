"""The shape of iterative samplers: a step that a measurement guides, and draws of seeded noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count as numbers
from typing import ClassVar, Self

import torch
from torch import Tensor

from apsgeo.baselines.coordinates import Coordinates
from apsgeo.diffusion.denoiser import AnchoredDenoiser
from apsgeo.diffusion.samplers import Path, Sampler, Time
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.measurement import Bias, Draws, Measurement, members_noise

__all__ = ["Given", "Guided", "Iterative", "ancestral"]

_MEAN_MEMBERS = 32


class Given:
    """What was measured, once for each member: records follow each other, then members.

    Args:
        measurement: Measurements of some records.
        count: Number of members of each.
    """

    def __init__(self, measurement: Measurement, count: int) -> None:
        self._once, self._count = measurement, count
        self.repeated = measurement.repeat(count)

    @cached_property
    def coordinates(self) -> Coordinates:
        """Coordinates in which each number is measured alone."""
        return Coordinates(self._once, self._count)

    @cached_property
    def weight(self) -> Tensor:
        """Noise of the most precise observation of the record over that of each, zero if none."""
        given = self.repeated
        typical = torch.where(given.mask, given.noise_std, torch.inf).flatten(1).amin(1)
        typical = typical.nan_to_num(posinf=1.0)  # where nothing was observed
        return given.mask * typical[:, None, None] / given.noise_std

    def misfit(self, fields: Tensor) -> Tensor:
        """Return y - A x in units of the noise of the most precise observation; differentiable."""
        return self.weight * (self.repeated.values - self.repeated.apply(fields))


@dataclass(frozen=True)
class Iterative(ABC):
    """A method that evaluates the denoiser of a diffusion prior many times a measurement.

    Attributes:
        prior: Denoiser of standardized anomalies.
        steps: Number of steps.
    """

    prior: AnchoredDenoiser
    steps: int = 100
    name: ClassVar[str]
    bias: ClassVar[Bias]
    evaluations: ClassVar[int] = 1
    """Number of evaluations of the denoiser, or of its gradient, in a step."""

    @classmethod
    def of(cls, prior: FieldPrior) -> Self:
        """Return the method of a prior.

        Raises:
            InputError: If the prior has no diffusion prior, or one on a manifold.
        """
        if prior.diffusion is None:
            raise InputError(f"{cls.name} needs a diffusion prior; fit one with steps above 0.")
        return cls(prior.denoiser)

    def posterior(self, measurement: Measurement) -> Draws:
        """Return draws of the fields behind measurements."""
        return _IterativeDraws(self, measurement)

    @abstractmethod
    def walk(self, given: Given, noise: Callable[[], Tensor]) -> Tensor:
        """Draw fields (member * record, channel, node).

        Args:
            given: What was measured, once for each member.
            noise: Function that returns standard normal noise of that shape, new at each call.
        """


@dataclass(frozen=True)
class Guided(Iterative):
    """A sampler that walks down the times of `apsgeo.diffusion.samplers`, led by measurements."""

    def walk(self, given: Given, noise: Callable[[], Tensor]) -> Tensor:
        """Draw fields (member * record, channel, node); see `Iterative.walk`."""
        return _Walk(self.steps, method=self, given=given).walk(self.prior, noise)

    @abstractmethod
    def step(self, given: Given, path: Path, now: Time, then: Time) -> Tensor:
        """Return the states s = x_t / alpha at the next time."""


def ancestral(path: Path, clean: Tensor, now: Time, then: Time) -> Tensor:
    """Draw the states at the next time, given what the field is taken to be (Ho et al. 2020)."""
    kept = (then.v / now.v) ** 2
    return kept * path.s + (1.0 - kept) * clean + then.v * (1.0 - kept) ** 0.5 * path.noise()


@dataclass(frozen=True)
class _Walk(Sampler):
    method: Guided = field(kw_only=True)
    given: Given = field(kw_only=True)

    def _step(self, path: Path, now: Time, then: Time) -> Tensor:
        return self.method.step(self.given, path, now, then)


class _IterativeDraws(Draws):
    def __init__(self, method: Iterative, measurement: Measurement) -> None:
        self._method, self.measurement = method, measurement

    @property
    def mean(self) -> Tensor:
        return self.members(_MEAN_MEMBERS, 0).mean(0)

    @torch.no_grad()
    def members(self, count: int, seed: int) -> Tensor:
        given, stream = self.measurement, numbers()

        def noise() -> Tensor:
            size = given.shape[1] * given.shape[2]
            white = members_noise(seed, given.key, count, size, stream=next(stream))
            return white.reshape(-1, *given.shape[1:]).to(given.values)

        fields = self._method.walk(Given(given, count), noise)
        return fields.unflatten(0, (count, len(given)))
