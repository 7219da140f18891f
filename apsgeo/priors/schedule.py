"""Noise schedules of the diffusion: how signal and noise share x_t = alpha x_0 + sigma n."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.errors import InputError

__all__ = ["VPSchedule"]


class VPSchedule:
    r"""The variance-preserving diffusion dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw.

    beta rises linearly from ``beta_min`` to ``beta_max`` over [0, T], so that with
    B(t) = int_0^t beta,

        alpha = exp(-B / 2),  sigma^2 = 1 - exp(-B),  snr = alpha^2 / sigma^2 = 1 / expm1(B)

    (Song et al. 2021, *Score-based generative modeling through SDEs*, arXiv 2011.13456, eq. 32).
    The drift's divergence is -beta d / 2 in d dimensions. Since d log(snr) / dt =
    -beta / sigma^2, a time drawn with density proportional to beta / sigma^2 (the importance
    sampling of Song et al. 2021, arXiv 2101.09258, section 4) is uniform in log(snr).

    Times are numbers or tensors; every method returns a float64 tensor of their shape.

    Args:
        beta_min: rate of the noise at time 0, per unit time.
        beta_max: rate of the noise at time T, per unit time.
        T: last time, at which almost no signal is left.
        eps: first time that is used; below it the score is not evaluated.

    Raises:
        InputError: unless 0 < beta_min <= beta_max and 0 < eps < T.
    """

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, T: float = 1.0, eps: float = 1e-3
    ) -> None:
        if not (0.0 < beta_min <= beta_max and 0.0 < eps < T):
            raise InputError(
                f"VPSchedule(beta_min={beta_min}, beta_max={beta_max}, T={T}, eps={eps}): give "
                "0 < beta_min <= beta_max and 0 < eps < T"
            )
        self.beta_min, self.beta_max, self.T, self.eps = beta_min, beta_max, T, eps

    def __repr__(self) -> str:
        """Show the constructor's call."""
        return (
            f"VPSchedule(beta_min={self.beta_min}, beta_max={self.beta_max}, "
            f"T={self.T}, eps={self.eps})"
        )

    def to_config(self) -> dict[str, float]:
        """Return the constructor's arguments, fit for JSON."""
        return {"beta_min": self.beta_min, "beta_max": self.beta_max, "T": self.T, "eps": self.eps}

    @property
    def _slope(self) -> float:
        return (self.beta_max - self.beta_min) / self.T

    def _integral(self, t: float | Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        return t * (self.beta_min + 0.5 * self._slope * t)

    def beta(self, t: float | Tensor) -> Tensor:
        """Return the rate of the noise, per unit time."""
        return self.beta_min + self._slope * torch.as_tensor(t, dtype=torch.float64)

    def g2(self, t: float | Tensor) -> Tensor:
        """Return the squared diffusion coefficient, g^2 = beta."""
        return self.beta(t)

    def alpha(self, t: float | Tensor) -> Tensor:
        """Return the share of the signal in x_t."""
        return torch.exp(-0.5 * self._integral(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        """Return the standard deviation of the noise in x_t."""
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def snr(self, t: float | Tensor) -> Tensor:
        """Return the signal-to-noise ratio gamma = alpha^2 / sigma^2."""
        return 1.0 / torch.expm1(self._integral(t))

    def log_snr(self, t: float | Tensor) -> Tensor:
        """Return log(alpha^2 / sigma^2), which falls with time."""
        return -torch.log(torch.expm1(self._integral(t)))

    def time_of_snr(self, snr: float | Tensor) -> Tensor:
        """Return the time at which the signal-to-noise ratio is ``snr``."""
        integral = torch.log1p(1.0 / torch.as_tensor(snr, dtype=torch.float64))
        root = torch.sqrt(self.beta_min**2 + 2.0 * self._slope * integral)
        return 2.0 * integral / (self.beta_min + root)
