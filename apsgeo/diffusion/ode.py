"""The log-density of a denoiser by its probability-flow ODE."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from apsgeo.diffusion.denoiser import AnchoredDenoiser
from apsgeo.diffusion.estimate import Estimate
from apsgeo.errors import InputError
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.linalg.constants import LOG_2PI

__all__ = ["ode_log_prob"]

_VALUES = 2**23  # denoised at once


def ode_log_prob(
    denoiser: AnchoredDenoiser,
    x0: Tensor,
    *,
    probes: int | None = None,
    anchor: GaussianPrior | None = None,
    generator: torch.Generator | None = None,
    tolerance: float = 1e-6,
) -> Estimate:
    r"""Return log p(x0) by the change of variables along the probability-flow ODE.

    With s = x_t / alpha and u = log(sigma / alpha) the ODE (Song et al. 2021, arXiv 2011.13456,
    eq. 13) is ds/du = s - D, and the density of s changes along it by

        d log p / du = -(d - tr dD/ds)

    (eq. 39). It is followed from s = x0 at ``schedule.eps``, by an explicit Runge-Kutta method of
    order 8 (DOP853; Hairer, Norsett & Wanner 1993) with adaptive steps that the batch shares, to
    ``schedule.T``, where x_T is N(0, (alpha^2 + sigma^2) I). From p_eps, the density of x0 plus
    noise of variance v = (sigma / alpha)^2, to p leads the heat equation, d p / dv =
    Laplacian(p) / 2, by one step of Euler's method: its error is of the order of
    (v / eigenvalue)^2 / 4 for each eigenvalue of the covariance.

    The trace is exact, or Hutchinson's estimate on fixed random signs (Grathwohl et al. 2019,
    arXiv 1810.01367). Its standard error comes from the spread over the signs, for the path that
    is common to them. A Gaussian anchor of covariance C is a control variate for it: of its
    denoiser D_G the integral of d - tr dD_G/ds is known, log det(C + v I) / 2 between the ends, and
    the signs are left with the difference of D and D_G.

    Args:
        denoiser: Denoiser of any prior; what it predicts is differentiated.
        x0: Signals (batch, channel, node).
        probes: Number of random signs, at least 2; None for the exact trace, at the cost of as
            many denoised fields as a field has values.
        anchor: For Hutchinson's estimate, a Gaussian prior near the denoiser's; it is factorized
            at every time of the integration.
        generator: CPU generator of the signs.
        tolerance: Relative and absolute tolerance of the integration.

    Returns:
        The value and its standard error in nats, each (batch,), float64, without gradients. The
        standard error of the exact trace is zero; the tolerance is not part of it.

    Raises:
        InputError: ``probes`` is below 2 or ``tolerance`` not positive.
    """
    from scipy.integrate import solve_ivp

    if (probes is not None and probes < 2) or not tolerance > 0.0:
        raise InputError(
            f"probes={probes}, tolerance={tolerance}; give at least 2 probes, or None for the "
            "exact trace, and a positive tolerance"
        )
    schedule, dims, batch = denoiser.schedule, x0[0].numel(), len(x0)
    start = x0.detach().double()
    directions = _directions(start, probes, generator)
    control = None if probes is None else anchor
    ends = torch.tensor([schedule.eps, schedule.T], dtype=torch.float64)
    first, last = (-0.5 * schedule.log_snr(ends)).tolist()

    def rate(u: float, state: np.ndarray, control: GaussianPrior | None = None) -> np.ndarray:
        flat = torch.from_numpy(state[: start.numel()]).to(start.device)
        signal = flat.reshape(start.shape)
        clean, trace = _denoise_and_trace(denoiser, signal, u, directions, probes is None)
        if control is None:
            loss = dims - trace
        else:
            pulled = control.denoise(directions, math.exp(u))
            loss = (directions * pulled).flatten(1).sum(1)[:, None] - trace
        parts = ((signal - clean).flatten(), loss.flatten())
        return torch.cat(parts).cpu().numpy()

    columns = 1 if probes is None else probes
    state = torch.cat([start.flatten(), start.new_zeros(columns * batch)]).cpu().numpy()
    begin = torch.from_numpy(rate(first, state))
    solution = solve_ivp(
        partial(rate, control=control),
        (first, last),
        state,
        method="DOP853",
        rtol=tolerance,
        atol=tolerance,
    )
    if not solution.success:
        raise InputError(f"the probability flow could not be integrated: {solution.message}")
    final = torch.from_numpy(solution.y[:, -1])
    moved, change = final[: start.numel()], final[start.numel() :]
    variance = 1.0 + math.exp(2.0 * last)
    energy = (moved**2).reshape(batch, -1).sum(1) / variance
    terminal = -0.5 * (energy + dims * (LOG_2PI + math.log(variance)))
    slope, loss = begin[: start.numel()].reshape(batch, -1), begin[start.numel() :]
    if control is not None:
        terminal = (
            terminal + _half_log_det(control, start, last) - _half_log_det(control, start, first)
        )
    # v / 2 (div score + |score|^2), with score = (D - s) / v and v div score = tr - d.
    heat = 0.5 * ((slope**2).sum(1) * math.exp(-2.0 * first) - loss.reshape(columns, batch))
    values = terminal + change.reshape(columns, batch) - heat
    if probes is None:
        return Estimate(values[0], torch.zeros(batch, dtype=torch.float64))
    return Estimate.of(values)


def _half_log_det(anchor: GaussianPrior, like: Tensor, u: float) -> float:
    """Return log det(C + exp(2 u) I) / 2 up to a constant."""
    return -float(anchor.log_prob(torch.zeros_like(like[:1]), math.exp(u)))


def _directions(like: Tensor, probes: int | None, generator: torch.Generator | None) -> Tensor:
    """Return random signs, or every unit vector, (direction, channel, node)."""
    shape, dims = like.shape[1:], like[0].numel()
    if probes is None:
        return torch.eye(dims, dtype=torch.float64, device=like.device).reshape(dims, *shape)
    bits = torch.randint(2, (probes, *shape), generator=generator)
    return (2.0 * bits.double() - 1.0).to(like.device)


def _denoise_and_trace(
    denoiser: AnchoredDenoiser, signal: Tensor, u: float, directions: Tensor, total: bool
) -> tuple[Tensor, Tensor]:
    """Return D (batch, channel, node), and v^T (dD/ds) v of each direction, or their sum.

    The latter is (direction, batch), or (1, batch). Every direction has a copy of the batch of
    its own: records are independent, so that one backward pass serves all.
    """
    schedule, batch = denoiser.schedule, len(signal)
    time = schedule.time_of_snr(math.exp(-2.0 * u)).clamp(schedule.eps, schedule.T)
    alpha = float(schedule.alpha(time))
    clean, traces = signal, []
    for part in directions.split(max(1, _VALUES // signal.numel())):
        copies = signal.expand(len(part), *signal.shape).flatten(0, 1).requires_grad_()
        vectors = part[:, None].expand(-1, *signal.shape).flatten(0, 1)
        with torch.enable_grad():
            out = denoiser.predict(alpha * copies, time)
            (pulled,) = torch.autograd.grad(out, copies, vectors)
        clean = out[:batch].detach()
        each = (pulled * vectors).flatten(1).sum(1).reshape(len(part), batch)
        traces.append(each.sum(0, keepdim=True) if total else each)
    found = torch.cat(traces)
    return clean, found.sum(0, keepdim=True) if total else found
