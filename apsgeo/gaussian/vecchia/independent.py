"""The marginal laws of a Gaussian posterior, drawn independently of each other."""

from __future__ import annotations

import math

from torch import Tensor

from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.draws import GaussianDraws
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Measurement

__all__ = ["Independent"]


class Independent:
    """A method that draws each value by itself, from its law given near observations.

    Mean and standard deviation are those of a local Gaussian posterior. It is what a flow starts
    from that learns the correlations: its draws and its density cost nothing.

    Args:
        local: The local Gaussian method.
    """

    def __init__(self, local: VecchiaPrior) -> None:
        self.local = local

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return f"independent {self.local.name}"

    @property
    def prior(self) -> Covariance | SeasonalPrior:
        """The Gaussian prior."""
        return self.local.prior

    def of(self, prior: Covariance | SeasonalPrior) -> Independent:
        """Return the same of another prior on the same domain."""
        return Independent(self.local.of(prior))

    def posterior(self, measurement: Measurement) -> GaussianDraws:
        """Return the draws of the fields behind a measurement."""
        return _IndependentDraws(self.local.posterior(measurement))


class _IndependentDraws(GaussianDraws):
    def __init__(self, draws: GaussianDraws) -> None:
        self.measurement = draws.measurement
        self._mean, self._std = draws.mean, draws.std()

    @property
    def noise_dim(self) -> int:
        return self._mean[0].numel()

    @property
    def mean(self) -> Tensor:
        return self._mean

    def std(self) -> Tensor:
        return self._std

    def functional_variance(self, functionals: Tensor) -> Tensor:
        squares = functionals.to(self._std).square()
        return self._std.flatten(1).square() @ squares.T

    def deviations(self, noise: Tensor) -> Tensor:
        return self._std * noise.to(self._std).reshape(-1, *self._std.shape)

    def shared_deviations(self, noise: Tensor) -> Tensor:
        return self._std[0] * noise.to(self._std).reshape(-1, *self._std.shape[1:])

    def energy(self, deviations: Tensor) -> Tensor:
        return 0.5 * (deviations / self._std.to(deviations)).square().flatten(2).sum(2)

    def peak_log_prob(self) -> Tensor:
        each = self._std.log() + 0.5 * math.log(2 * math.pi)
        return -each.flatten(1).sum(1)
