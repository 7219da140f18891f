"""Noise schedules of the diffusion: how signal and noise share x_t = alpha x_0 + sigma n.

In s = x_t / alpha all diffusions are the same but for their clock: one denoiser, with its samplers
and log-densities, serves every schedule, and only the range of the signal-to-noise ratio matters
(Kingma et al. 2021, *Variational diffusion models*, arXiv 2107.00630, section 5.1). A new schedule
is one class, and its name in `SCHEDULES`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from apsgeo.errors import InputError
from apsgeo.io import of_kind

__all__ = ["SCHEDULES", "EDMSchedule", "Schedule", "VESchedule", "VPSchedule", "from_config"]


class Schedule(ABC):
    """How signal and noise share x_t, from the time ``eps`` to ``T``.

    Times are numbers or tensors; every method returns float64 tensors of their shape.
    """

    kind: ClassVar[str]
    """The name of this kind of schedule in saved configurations."""

    @property
    @abstractmethod
    def T(self) -> float:
        """The last time, at which almost no signal is left."""

    @property
    @abstractmethod
    def eps(self) -> float:
        """The first time that is used; below it the score is not evaluated."""

    @abstractmethod
    def log_snr(self, t: float | Tensor) -> Tensor:
        """Return log(alpha^2 / sigma^2), which falls with time."""

    @abstractmethod
    def rate(self, t: float | Tensor) -> Tensor:
        """Return the rate, per unit time, at which the log of the signal-to-noise ratio falls."""

    @abstractmethod
    def time_of_snr(self, snr: float | Tensor) -> Tensor:
        """Return the time at which the signal-to-noise ratio is ``snr``."""

    @abstractmethod
    def alpha_sigma(self, log_snr: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at a log of the signal-to-noise ratio."""

    def alpha(self, t: float | Tensor) -> Tensor:
        """Return the share of the signal in x_t."""
        return self.alpha_sigma(self.log_snr(t))[0]

    def sigma(self, t: float | Tensor) -> Tensor:
        """Return the standard deviation of the noise in x_t."""
        return self.alpha_sigma(self.log_snr(t))[1]

    def snr(self, t: float | Tensor) -> Tensor:
        """Return the signal-to-noise ratio gamma = alpha^2 / sigma^2."""
        return torch.exp(self.log_snr(t))

    def to_config(self) -> dict[str, Any]:
        """Return a JSON-able configuration, from which `from_config` rebuilds the schedule."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class VPSchedule(Schedule):
    r"""The variance-preserving diffusion dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw.

    beta rises linearly from ``beta_min`` to ``beta_max`` over [0, T], so that with
    B(t) = int_0^t beta,

        alpha = exp(-B / 2),  sigma^2 = 1 - exp(-B),  snr = alpha^2 / sigma^2 = 1 / expm1(B)

    (Song et al. 2021, *Score-based generative modeling through SDEs*, arXiv 2011.13456, eq. 32).
    The drift's divergence is -beta d / 2 in d dimensions. Since d log(snr) / dt =
    -beta / sigma^2, a time drawn with density proportional to beta / sigma^2 (the importance
    sampling of Song et al. 2021, arXiv 2101.09258, section 4) is uniform in log(snr).

    Attributes:
        beta_min: Rate of the noise at time 0, per unit time.
        beta_max: Rate of the noise at time T, per unit time.
        T: Last time, at which almost no signal is left.
        eps: First time that is used; below it the score is not evaluated.

    Raises:
        InputError: If not 0 < beta_min <= beta_max, or not 0 < eps < T.
    """

    kind: ClassVar[str] = "vp"
    beta_min: float = 0.1
    beta_max: float = 20.0
    T: float = 1.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        if not (0.0 < self.beta_min <= self.beta_max and 0.0 < self.eps < self.T):
            raise InputError(f"{self}: give 0 < beta_min <= beta_max and 0 < eps < T")

    @property
    def _slope(self) -> float:
        return (self.beta_max - self.beta_min) / self.T

    def _integral(self, t: float | Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        return t * (self.beta_min + 0.5 * self._slope * t)

    def beta(self, t: float | Tensor) -> Tensor:
        """Return the rate of the noise, per unit time: the squared diffusion coefficient."""
        return self.beta_min + self._slope * torch.as_tensor(t, dtype=torch.float64)

    def log_snr(self, t: float | Tensor) -> Tensor:
        """Return -log(expm1(B)), which falls with time."""
        return -torch.log(torch.expm1(self._integral(t)))

    def rate(self, t: float | Tensor) -> Tensor:
        """Return beta / sigma^2."""
        return self.beta(t) / -torch.expm1(-self._integral(t))

    def time_of_snr(self, snr: float | Tensor) -> Tensor:
        """Return the time at which the signal-to-noise ratio is ``snr``."""
        integral = torch.log1p(1.0 / torch.as_tensor(snr, dtype=torch.float64))
        root = torch.sqrt(self.beta_min**2 + 2.0 * self._slope * integral)
        return 2.0 * integral / (self.beta_min + root)

    def alpha_sigma(self, log_snr: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma, alpha^2 = sigmoid(log_snr) and alpha^2 + sigma^2 = 1."""
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
        return torch.exp(0.5 * logsigmoid(log_snr)), torch.exp(0.5 * logsigmoid(-log_snr))


@dataclass(frozen=True)
class _Exploding(Schedule):
    """The signal stays, alpha = 1, and the noise grows from ``sigma_min`` to ``sigma_max``.

    Attributes:
        sigma_min: Standard deviation of the noise at the first time, in that of the data.
        sigma_max: Standard deviation of the noise at the last time, where it drowns the data.

    Raises:
        InputError: If not 0 < sigma_min < sigma_max.
    """

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise InputError(f"{self}: give 0 < sigma_min < sigma_max")

    def alpha_sigma(self, log_snr: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha = 1 and sigma = snr^(-1/2)."""
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
        return torch.ones_like(log_snr), torch.exp(-0.5 * log_snr)


@dataclass(frozen=True)
class VESchedule(_Exploding):
    """The variance-exploding diffusion: sigma = sigma_min (sigma_max / sigma_min)^t, t in [0, 1].

    (Song et al. 2021, arXiv 2011.13456, eq. 30, whose process starts from the data with
    sigma_min's noise.) Its clock is uniform in log(snr).

    Attributes:
        sigma_min: Standard deviation of the noise at time 0, in that of the data.
        sigma_max: Standard deviation of the noise at time 1, where it drowns the data.

    Raises:
        InputError: If not 0 < sigma_min < sigma_max.
    """

    kind: ClassVar[str] = "ve"
    sigma_min: float = 0.01
    sigma_max: float = 100.0

    T: ClassVar[float] = 1.0
    eps: ClassVar[float] = 0.0

    @property
    def _growth(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def log_snr(self, t: float | Tensor) -> Tensor:
        """Return -2 log(sigma), which falls with time."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return -2.0 * (math.log(self.sigma_min) + self._growth * t)

    def rate(self, t: float | Tensor) -> Tensor:
        """Return a constant."""
        return torch.full_like(torch.as_tensor(t, dtype=torch.float64), 2.0 * self._growth)

    def time_of_snr(self, snr: float | Tensor) -> Tensor:
        """Return the time at which the signal-to-noise ratio is ``snr``."""
        log_snr = torch.log(torch.as_tensor(snr, dtype=torch.float64))
        return (-0.5 * log_snr - math.log(self.sigma_min)) / self._growth


@dataclass(frozen=True)
class EDMSchedule(_Exploding):
    """The diffusion whose time is the noise, sigma = t (Karras et al. 2022, arXiv 2206.00364).

    Attributes:
        sigma_min: Standard deviation of the noise at the first time, in that of the data.
        sigma_max: Standard deviation of the noise at the last time, where it drowns the data.

    Raises:
        InputError: If not 0 < sigma_min < sigma_max.
    """

    kind: ClassVar[str] = "edm"
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    @property
    def T(self) -> float:
        """The last time, sigma_max."""
        return self.sigma_max

    @property
    def eps(self) -> float:
        """The first time, sigma_min."""
        return self.sigma_min

    def log_snr(self, t: float | Tensor) -> Tensor:
        """Return -2 log(t), which falls with time."""
        return -2.0 * torch.log(torch.as_tensor(t, dtype=torch.float64))

    def rate(self, t: float | Tensor) -> Tensor:
        """Return 2 / t."""
        return 2.0 / torch.as_tensor(t, dtype=torch.float64)

    def time_of_snr(self, snr: float | Tensor) -> Tensor:
        """Return the time at which the signal-to-noise ratio is ``snr``."""
        return torch.as_tensor(snr, dtype=torch.float64) ** -0.5


SCHEDULES: list[type[Schedule]] = [VPSchedule, VESchedule, EDMSchedule]


def from_config(config: Mapping[str, Any]) -> Schedule:
    """Rebuild a schedule from `Schedule.to_config`.

    Raises:
        ModelError: If the configuration's `kind` is not that of a schedule known here.
    """
    kind = of_kind(SCHEDULES, config, "schedule")
    return kind(**{name: value for name, value in config.items() if name != "kind"})
