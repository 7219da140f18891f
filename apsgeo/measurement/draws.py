"""The contract of the library: what a method takes, and what it returns.

A method samples p(x | y). It takes a `Measurement` (values, mask, noise, operator, season, key)
and returns `Draws`: a mean, members, and a log-density where it knows one. Gaussian priors,
mixtures, flows, iterative samplers and interpolators are methods.

Examples:
    Observe two of the six pixels of an image, and draw the others:

    >>> from apsgeo import ImageDomain
    >>> from apsgeo.gaussian.low_rank import LowRankPrior
    >>> domain = ImageDomain(2, 3)
    >>> smooth = LowRankPrior(domain, torch.ones(1, 6, 1), white_std=0.1)
    >>> y = torch.tensor([[[1.0, torch.nan, torch.nan, torch.nan, torch.nan, 0.8]]])
    >>> draws = smooth.posterior(Measurement.of(y, noise_std=0.1))
    >>> draws.mean.shape
    torch.Size([1, 1, 6])
    >>> draws.members(32, seed=0).shape
    torch.Size([32, 1, 1, 6])
    >>> draws.log_prob(draws.members(32, seed=0)).shape
    torch.Size([32, 1])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.measurement.measurement import Measurement
from apsgeo.metrics.predictions import EnsemblePrediction, NormalPrediction, Prediction

__all__ = [
    "PROBE_SEED",
    "Bias",
    "Draws",
    "Method",
    "NoiseDraws",
    "members_noise",
    "noise_batches",
]

PROBE_SEED = 20240717
"""Seed of the draws behind moments that are not known."""

_MOMENT_DRAWS = 128


class Method(Protocol):
    """Anything that samples p(x | y)."""

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    def posterior(self, measurement: Measurement) -> Draws:
        """Return the posterior of the fields behind a batch of measurements."""
        ...


class Bias(NamedTuple):
    """The largest errors of a method whose draws are not the exact posterior of its prior.

    The shared tests hold a method with such an attribute, `bias`, to it. They measure it with a
    Gaussian prior, noise of 0.3 of its standard deviation, and 30 % of the nodes observed.

    Attributes:
        mean: Greatest error of the mean, a root mean square in posterior standard deviations.
        variance: Range of the ratio of the mean variance to the exact one.
    """

    mean: float
    variance: tuple[float, float]


class Draws(ABC):
    """The posterior of a batch of measured fields."""

    measurement: Measurement

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Posterior mean (batch, channel, node)."""

    @abstractmethod
    def members(self, count: int, seed: int) -> Tensor:
        """Return reproducible members (member, batch, channel, node).

        Member k of a record depends on the seed, the record's key and k alone: not on the other
        records, or on how many members are asked for.
        """

    def batches(self, count: int, seed: int, size: int, first: int = 0) -> Iterator[Tensor]:
        """Yield `members` in batches (member, batch, channel, node), not to hold all of them.

        A method that has no other way draws all members at once.

        Args:
            count: Number of members.
            seed: Seed of the members.
            size: Greatest number of members in a batch.
            first: Number of members to leave out before those.
        """
        yield from self.members(first + count, seed)[first:].split(size)

    def log_prob(self, signal: Tensor) -> Tensor:
        """Return log q(x | y) (..., batch) of fields (..., batch, channel, node).

        Raises:
            InputError: If the method has no density.
        """
        raise InputError(
            "this method draws members without a density; use a flow, a Gaussian prior or a "
            "mixture where log_prob is needed."
        )

    def as_members(self, signal: Tensor) -> Tensor:
        """Return fields (..., batch, channel, node) as (member, batch, channel, node).

        Raises:
            InputError: If they are of another batch than the measurements.
        """
        if signal.ndim < 3 or signal.shape[-3] != len(self.measurement):
            raise InputError(
                f"fields have shape {tuple(signal.shape)}; (..., batch, channel, node) with "
                f"{len(self.measurement)} measurements was expected: many fields of one "
                "measurement are fields[:, None]."
            )
        return signal.reshape(-1, *signal.shape[-3:])

    @property
    def variance(self) -> Tensor:
        """Variance (batch, channel, node); if not known exactly, of 128 draws with fixed noise."""
        std = self.marginal_std
        return self.members(_MOMENT_DRAWS, 0).var(0) if std is None else std**2

    @property
    def marginal_std(self) -> Tensor | None:
        """Standard deviation (batch, channel, node) of normal marginals, None if not known.

        A method that predicts a mean and an error for each node, as kriging does, is scored by
        these and not by a finite number of members.
        """
        return None

    def prediction(self, count: int, seed: int) -> Prediction:
        """Return the prediction to score, (batch, channel * node): normal marginals if known.

        Args:
            count: Number of members, if marginals are not known.
            seed: Seed of the members.
        """
        if (std := self.marginal_std) is not None:
            return NormalPrediction(_flat(self.mean), _flat(std))
        with torch.no_grad():
            return EnsemblePrediction(_flat(self.members(count, seed)))


def _flat(values: Tensor) -> NDArray[Any]:
    return values.cpu().flatten(-2).numpy()


class NoiseDraws(Draws):
    """Draws that are a function of standard normal noise, often a differentiable one."""

    @property
    @abstractmethod
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one draw."""

    @abstractmethod
    def from_noise(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, noise_dim) to fields (member, batch, channel, node)."""

    @property
    def mean(self) -> Tensor:
        """Mean (batch, channel, node) of 128 draws with fixed noise, unless it is known exactly."""
        return self.members(_MOMENT_DRAWS, 0).mean(0)

    def members(self, count: int, seed: int) -> Tensor:
        """Return the fields of `members_noise`; see `Draws.members`."""
        noise = self.members_noise(count, seed)
        with torch.no_grad():
            return self.from_noise(noise)

    def batches(self, count: int, seed: int, size: int, first: int = 0) -> Iterator[Tensor]:
        """Yield the fields of `noise_batches`; see `Draws.batches`."""
        with torch.no_grad():
            for noise in self.noise_batches(count, seed, size, first):
                yield self.from_noise(noise)

    def members_noise(self, count: int, seed: int) -> Tensor:
        """Return the standard normal noise (member, batch, noise_dim) behind `members`."""
        return next(self.noise_batches(count, seed, count))

    def noise_batches(self, count: int, seed: int, size: int, first: int = 0) -> Iterator[Tensor]:
        """Yield `members_noise` in batches; see `Draws.batches`."""
        return noise_batches(seed, self.measurement.key, count, self.noise_dim, size, first)


def members_noise(seed: int, keys: Tensor, count: int, size: int, stream: int = 0) -> Tensor:
    """Return the standard normal noise (member, record, size) of some records, float32.

    The noise of a record depends on (seed, key) alone. It is drawn member after member, so that
    member k is the same however many are asked for. A method that needs more noise than it can hold
    draws it in several streams, which are independent.
    """
    return next(noise_batches(seed, keys, count, size, count, stream=stream))


def noise_batches(
    seed: int, keys: Tensor, count: int, size: int, batch: int, first: int = 0, stream: int = 0
) -> Iterator[Tensor]:
    """Yield `members_noise` in batches of at most so many members, but for the first ones."""
    generators = []
    for key in keys.tolist():
        words = np.random.SeedSequence([seed, key % 2**64], spawn_key=(stream,) if stream else ())
        generators.append(np.random.Generator(np.random.Philox(words)))
    for _ in range(first):
        for generator in generators:
            generator.standard_normal(size, dtype=np.float32)
    for start in range(0, max(count, 1), max(batch, 1)):
        shape = min(batch, count - start), size
        each = [generator.standard_normal(shape, dtype=np.float32) for generator in generators]
        yield torch.from_numpy(np.stack(each, axis=1))
