"""The memory of a variable: how anomalies of neighbouring records go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.time.lasting import Lasting
from apsgeo.measurement import noise_batches

__all__ = ["Memory", "Split"]

Array = NDArray[np.float64]

_SNAP = 0.15  # steps by which months, say, differ in length: such lags are whole ones
_RANGE = (0.02, 0.98)  # least and greatest correlation of the fast part a step later
_LONG = (6, 12)  # lags at which the slow part is all that is left
_SLOW = (0.9, 0.99)  # least and greatest correlation of the slow part a step later
_MOST_SLOW = 0.7  # greatest share of the slow part
_LEAST = 0.1  # mean correlation below which there is no memory to speak of
_SMOOTH_KM = 0.035  # of the root of the domain's area: radius within which correlations are pooled
_ROWS = 1024
_MOST_POOLED = 4096  # nodes that are pooled at each; of larger domains so many, drawn by area
_REACH = 4  # steps on either side whose noise a member's noise is an average of
_STREAM = 1  # of the noise behind members that cohere in time


@dataclass(frozen=True, eq=False)
class Memory:
    r"""A covariance in time: a fast part that forgets at its own rate everywhere, and a slow one.

    The fast part of standardized anomalies obeys dx_i = -a_i x_i dt + sqrt(2 a_i) dW_i, where W has
    the covariance C of the prior between values. In steps of one, x_i(t + 1) = rho_i x_i(t) +
    e_i(t) with rho_i = exp(-a_i), the AR(1) process of Hasselmann (1976,
    https://doi.org/10.3402/tellusa.v28i6.11316) at every node. In the stationary state, for
    s = t + k and k >= 0,

        Cov(x_i(t), x_j(s)) = C_ij kappa_ij rho_j^k,   kappa_ij = 2 sqrt(a_i a_j) / (a_i + a_j).

    The slow part has the covariance C and one correlation r^k: what lasts for years, such as a
    climate that has moved on from its normals. It has a share s_i of the variance, so that

        Cov(x_i(t), x_j(s)) = C_ij (sqrt(s_i s_j) r^k + sqrt((1 - s_i) (1 - s_j)) kappa_ij rho_j^k).

    Where large scales last and small ones do not, the field is the sum of two independent parts
    (`Lasting`), each with shares and rates of its own; those above are of what is not `split` off.

    Of all of it, a share `kept` goes on from record to record; the rest, of the same covariance C,
    is new in each. It is positive definite for any numbers and any times, equally spaced or not.
    The factor of C is one at k = 0 where the numbers are the same, so that they are made to vary
    smoothly in space.

    Attributes:
        rate: Rates a (channel, node) of the fast part, a step.
        slow: Shares s (channel, node) of the slow part; none by default.
        slow_correlation: Correlation r of the slow part with itself a step later.
        window: Number of records on either side that matter.
        step_days: Length of a step in days, or None where records are counted.
        kept: Share, from 0 to 1, of the covariance with other records that is kept; held-out
            records choose it, see `apsgeo.gaussian.time.choice`.
        split: The part of the field that lasts longer, and its own memory, or None.
    """

    rate: Tensor
    slow: Tensor = None  # type: ignore[assignment]
    slow_correlation: float = 0.97
    window: int = 4
    step_days: float | None = None
    kept: float = 1.0
    split: Split | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "slow", _or_none(self.slow, self.rate))

    @classmethod
    def fit(
        cls,
        domain: Domain,
        fields: Tensor,
        time: Array,
        *,
        step_days: float | None = None,
        window: int = 4,
    ) -> Memory | None:
        """Fit shares and rates to a history; None if it hardly has a memory.

        The correlations of each value with itself one, six and twelve steps later are pooled over
        nodes within some distance, a thirtieth of the root of the domain's area. The slow part has
        those of the long lags, as far as they are positive, and the fast part what they leave of
        that at one step.

        Args:
            domain: Domain of the fields.
            fields: Standardized anomalies (time, channel, node), zero where there are none.
            time: Time (time,) of each, in steps, ascending.
            step_days: Length of a step in days.
            window: Number of records on either side that matter.
        """
        found = _fitted(domain, fields, time)
        return None if found is None else cls(*found, window, step_days)

    def splitted(
        self, domain: Domain, prior: Covariance, fields: Tensor, time: Array, lasting: Lasting
    ) -> Memory | None:
        """Fit shares and rates to a part of the fields that lasts, and to the rest, each by itself.

        Args:
            domain: Domain of the fields.
            fields: Standardized anomalies (time, channel, node), zero where there are none.
            time: Time (time,) of each, in steps, ascending.
            prior: The prior by which the part is told from its amplitudes.
            lasting: The part. None is returned if it hardly has a memory.
        """
        part = lasting.part(prior, fields)
        left = fields.double() - part
        own, rest = _fitted(domain, part, time), _fitted(domain, left, time)
        if own is None:
            return None
        if rest is None:
            rate = torch.full_like(self.rate, -float(np.log(_RANGE[0])))
            rest = rate, torch.zeros_like(rate), self.slow_correlation
        square = part.square().mean(0), left.square().mean(0)
        share = square[0] / (square[0] + square[1]).clamp(min=1e-30)
        memory = Memory(*own, self.window, self.step_days)
        found = Memory(*rest, self.window, self.step_days)
        return replace(found, split=Split(lasting, memory, share.float()))

    def __repr__(self) -> str:
        mean = float(self.correlation.mean())
        return (
            f"Memory(correlation={mean:.2f}, window={self.window}, step_days={self.step_days}, "
            f"kept={self.kept:g}, split={self.split is not None})"
        )

    @property
    def correlation(self) -> Tensor:
        """Correlation (channel, node) of each value with itself a step later."""
        own = self.slow * self.slow_correlation + (1.0 - self.slow) * (-self.rate).exp()
        if self.split is not None:
            own = torch.lerp(own, self.split.memory.correlation, self.split.share)
        return self.kept * own

    def neighbours(self, time: Tensor, others: Tensor) -> list[list[tuple[float, int]]]:
        """Return the lag and the place of the records that matter to each of some, by their times.

        They are the nearest on either side, `window` of them at most, no farther than as many
        steps. Lags that are nearly whole are made whole.

        Args:
            time: Time (record,) of the records, in steps.
            others: Time (other,) of the records that may matter.
        """
        lag = _whole(others[None].double() - time[:, None].double())
        near = (lag.abs() <= self.window + _SNAP).numpy()
        found = []
        for row, wanted in zip(lag.numpy(), near, strict=True):
            chosen: list[tuple[float, int]] = []
            for side in (-1.0, 1.0):
                places = np.flatnonzero(wanted & (side * row > 0.0))
                order = places[np.argsort(np.abs(row[places]), kind="stable")][: self.window]
                chosen += [(float(row[k]), int(k)) for k in order]
            found.append(sorted(chosen))
        return found

    def between(self, rows: Tensor, columns: Tensor, away: Tensor) -> Tensor:
        """Return the factor (..., i, j) of the prior's covariance of what is not split off.

        Args:
            rows: Values (..., i), places among channel * node.
            columns: Values (..., j).
            away: Time of the columns minus that of the rows, in steps, which broadcasts to
                (..., i, j) and whose dtype is that of the result.
        """
        rate, slow = self.rate.to(away).flatten(), self.slow.to(away).flatten()
        first, second = rate[rows][..., :, None], rate[columns][..., None, :]
        steps = away.abs()
        # In place, as these are most of what a draw given its neighbours costs.
        fast = torch.where(away >= 0.0, second, first)  # the later one's rate
        fast = fast.mul_(-steps).exp_().div_(first + second)
        # sqrt(1 - s) times the root of each rate; the roots are of values, not of pairs
        part = (2.0 * (1.0 - slow) * rate).sqrt()
        fast.mul_(part[rows][..., :, None]).mul_(part[columns][..., None, :])
        part = slow.sqrt()
        slowly = part[rows][..., :, None] * part[columns][..., None, :]
        return fast.add_(slowly.mul_(self.slow_correlation**steps))

    def covariance(
        self, prior: Covariance, block: Tensor, rows: Tensor, columns: Tensor, away: Tensor
    ) -> Tensor:
        """Return the covariance (..., i, j) of values at two times.

        Args:
            prior: The prior C.
            block: Its block C[rows, columns].
            rows: Values (..., i), places among channel * node.
            columns: Values (..., j).
            away: Time of the columns minus that of the rows; see `between`.
        """
        if self.split is None:
            found = block * self.between(rows, columns, away)
        else:
            root = self.split.lasting.root(prior).to(block)
            lasting = root[rows] @ root[columns].mT
            found = (block - lasting).mul_(self.between(rows, columns, away))
            found.add_(lasting.mul_(self.split.memory.between(rows, columns, away)))
        return found if self.kept == 1.0 else torch.where(away == 0.0, found, self.kept * found)

    def members_noise(self, seed: int, time: Tensor, count: int) -> Tensor:
        """Return standard normal noise (member, record, value) that goes on in time, float32.

        Member k of a record is a weighted sum of noise on a regular grid of steps, each of which
        follows from (seed, its number, k) alone. So it depends on the record's time alone, and not
        on which others are drawn with it. Each record's noise is exactly standard normal. A
        record's noise is correlated with that a step later about as the value itself is, but by no
        more than 0.9.

        Args:
            seed: Seed of the members.
            time: Time (record,) of the records, in steps.
            count: Number of members.
        """
        return next(self.noise_batches(seed, time, count, count))

    def noise_batches(
        self, seed: int, time: Tensor, count: int, size: int, first: int = 0
    ) -> Iterator[Tensor]:
        """Yield `members_noise` in batches of at most so many members, but for the first ones."""
        place = time.double()
        cells = (place.floor().long() - _REACH + 1)[:, None] + torch.arange(2 * _REACH)
        distinct, where = torch.unique(cells, return_inverse=True)
        decay = _decay(self.correlation.double().flatten())
        weight = _weights((place[:, None] - cells)[..., None], decay).float()
        values = self.rate.numel()
        for white in noise_batches(seed, distinct, count, values, size, first, _STREAM):
            out = white.new_zeros(len(white), len(place), values)
            for k in range(2 * _REACH):
                out += weight[:, k] * white[:, where[:, k]]
            yield out

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return a JSON-able configuration and the tensors."""
        config: dict[str, Any] = {
            "window": self.window,
            "step_days": self.step_days,
            "slow_correlation": self.slow_correlation,
            "kept": self.kept,
            "split": None,
        }
        tensors = {"rate": self.rate, "slow": self.slow}
        if self.split is not None:
            config["split"], state = self.split.memory.to_state()
            tensors |= {f"split.{name}": value for name, value in state.items()}
            tensors |= {"split.share": self.split.share, **self.split.lasting.to_tensors()}
        return config, tensors

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Memory:
        """Rebuild from `to_state`."""
        split = None
        if config.get("split") is not None:
            own = {"rate": tensors["split.rate"], "slow": tensors["split.slow"]}
            lasting = Lasting(tensors["lasting.values"], tensors["lasting.weights"])
            memory = cls.from_state(config["split"], own)
            split = Split(lasting, memory, tensors["split.share"])
        return cls(tensors["rate"], tensors["slow"], **{**config, "split": split})


@dataclass(frozen=True, eq=False)
class Split:
    """The part of a field that lasts longer than the rest.

    Attributes:
        lasting: What the part is.
        memory: Its memory.
        share: Its share (channel, node) of the variance.
    """

    lasting: Lasting
    memory: Memory
    share: Tensor


def _or_none(share: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if share is None else share


def _whole(lag: Tensor) -> Tensor:
    """Make lags whole that are nearly so."""
    near = lag.round()
    return torch.where((lag - near).abs() <= _SNAP, near, lag)


def _weights(away: Tensor, decay: Tensor) -> Tensor:
    """Return weights (..., cell, value) of unit norm over cells so far away (..., cell, 1)."""
    least = (-decay * _REACH).exp()
    weight = ((-decay * away.abs()).exp() - least).clamp(min=0.0)
    return weight / weight.square().sum(-2, keepdim=True).sqrt()


def _decay(correlation: Tensor) -> Tensor:
    """Return the decay (value,) of weights whose sums a step apart have a correlation (value,)."""
    decay = torch.logspace(1.0, -2.0, 400, dtype=torch.float64)
    cells = torch.arange(-_REACH, _REACH + 2, dtype=torch.float64)[:, None]
    reached = (_weights(cells, decay) * _weights(cells - 1.0, decay)).sum(0)
    return torch.from_numpy(np.interp(correlation.numpy(), reached.numpy(), decay.numpy()))


def _fitted(domain: Domain, fields: Tensor, time: Array) -> tuple[Tensor, Tensor, float] | None:
    """Return rates, slow shares and the correlation of the slow part; None without a memory."""
    first = _autocorrelation(domain, fields, time, 1)
    if first is None or not float(first[1]) > _LEAST:
        return None
    slow, correlation = torch.zeros_like(first[0]), Memory.slow_correlation
    later = [_autocorrelation(domain, fields, time, lag) for lag in _LONG]
    if all(found is not None and found[1] > 0.0 for found in later):
        (six, mean), (twelve, mean_later) = (found for found in later if found is not None)
        decay = (mean_later / mean) ** (1.0 / (_LONG[1] - _LONG[0]))
        correlation = min(max(decay, _SLOW[0]), _SLOW[1])
        each = (six / correlation ** _LONG[0] + twelve / correlation ** _LONG[1]) / 2.0
        slow = each.clamp(0.0, _MOST_SLOW)
    rho = ((first[0] - slow * correlation) / (1.0 - slow)).clamp(*_RANGE)
    return (-rho.log()).float(), slow.float(), correlation


def _autocorrelation(
    domain: Domain, fields: Tensor, time: Array, lag: int
) -> tuple[Tensor, float] | None:
    """Return the pooled correlation (channel, node) at a lag, and the mean; None without pairs."""
    after = np.flatnonzero(np.abs(time[lag:] - time[:-lag] - lag) < _SNAP * lag) + lag
    if len(after) < 2:
        return None
    now, before = fields[after].double(), fields[after - lag].double()
    both = (now != 0.0) & (before != 0.0)
    products = now * before, both * (now**2 + before**2) / 2.0
    moments = torch.stack([each.mean(0) for each in products])
    share = domain.areas.double() / domain.areas.sum()
    product, square = (moments * share).sum((1, 2)).tolist()
    each = _pooled(domain, moments.flatten(0, 1), share).unflatten(0, moments.shape[:2])
    mean = product / square if square > 0.0 else 0.0
    return each[0] / each[1].clamp(min=1e-12), mean


def _pooled(domain: Domain, fields: Tensor, share: Tensor) -> Tensor:
    """Return fields (field, node) averaged over near nodes by a Gaussian kernel."""
    positions = domain.positions.double()
    radius = _SMOOTH_KM * float(domain.areas.sum()) ** 0.5
    some = torch.arange(len(share))
    if len(share) > _MOST_POOLED:
        generator = torch.Generator().manual_seed(0)
        rank = torch.rand(len(share), generator=generator, dtype=torch.float64).log() / share
        some = rank.topk(_MOST_POOLED).indices  # drawn by area (Efraimidis & Spirakis 2006)
    there, weighted = positions[some], torch.cat([fields, torch.ones_like(fields[:1])])[:, some].T
    if len(some) == len(share):
        weighted = weighted * share[:, None]
    out = torch.empty(len(share), len(fields), dtype=torch.float64)
    for part in torch.arange(len(share)).split(_ROWS):
        kernel = torch.exp(-0.5 * (torch.cdist(positions[part], there) / radius) ** 2)
        total = kernel @ weighted
        out[part] = total[:, :-1] / total[:, -1:].clamp(min=1e-30)
    return out.T
