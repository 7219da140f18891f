"""What an instrument returned: values, which of them exist, and how noisy they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import scipy.sparse as sp
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.measurement.noise import check_noise
from apsgeo.operators.linear import IdentityMap, LinearMap

__all__ = ["Measurement"]


@dataclass(frozen=True, eq=False)
class Measurement:
    """Values y = A x + n where `mask` is true.

    Attributes:
        values: Values y (batch, channel, observation); zero replaces whatever is under the mask.
        mask: Mask (batch, channel, observation), true where observed.
        noise_std: Standard deviation (batch, channel, observation) of n, positive, in the units of
            the values; one replaces it where nothing is observed. What broadcasts to that shape is
            taken, such as a number.
        operator: A; by default the observations are the nodes themselves.
        scale: Factor (batch, channel, node) of the signal, y = A (scale x) + n, by which x may be
            standardized anomalies while y is in the units of the data; None for one.
        season: Index (batch,) of each record's season, or None where it is not known.
        instant: Time (batch,) of each record, microseconds since 1970 (`apsgeo.labels.dates`), or
            None where it is not known.
        wander: Standard deviation (batch,) of the amplitude of the prior's trend at each record's
            time; None where there is no trend.
        key: Number (batch,) int64 that names each record and seeds its random draws; by default
            its place in the batch.
        time: Time (batch,) of each record in steps of the history, float64, or None where it is
            not known or does not matter.
        around: Measurements of other records of the series, with their own `time`, from which a
            method that knows how records follow each other takes those near each record; None
            for none. One of the same time is taken for the record itself.
        shared: Loadings B (channel * observation, k) of each record's errors b ~ N(0, I) that
            observations share, so that y = A x + B b + n; None where n is all there is. A method
            needs `apsgeo.gaussian.shared.posterior.WithSharedErrors` to take them into account.
    """

    values: Tensor
    mask: Tensor
    noise_std: Tensor
    operator: LinearMap = field(default=None, kw_only=True)  # type: ignore[assignment]
    scale: Tensor | None = field(default=None, kw_only=True)
    season: Tensor | None = field(default=None, kw_only=True)
    instant: Tensor | None = field(default=None, kw_only=True)
    wander: Tensor | None = field(default=None, kw_only=True)
    key: Tensor = field(default=None, kw_only=True)  # type: ignore[assignment]
    time: Tensor | None = field(default=None, kw_only=True)
    around: Measurement | None = field(default=None, kw_only=True)
    shared: tuple[sp.csr_array, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.values.shape != self.mask.shape or self.values.ndim != 3:
            raise InputError(
                f"values {tuple(self.values.shape)} and mask {tuple(self.mask.shape)} must both "
                "be (batch, channel, node)."
            )
        if len(self.values) == 0:
            raise InputError("a measurement of no record was given; give at least one.")
        operator = _or_identity(self.operator, self.values.shape[-1])
        object.__setattr__(self, "operator", operator)
        if self.operator.num_observations != self.values.shape[-1]:
            raise InputError(
                f"values have shape {tuple(self.values.shape)}; (batch, channel, observation) with "
                f"{self.operator.num_observations} observations was expected for {self.operator!r}."
            )
        if self.scale is not None and self.scale.shape != self.shape:
            raise InputError(
                f"scale has shape {tuple(self.scale.shape)}; (batch, channel, node) = {self.shape} "
                "was expected."
            )
        noise = torch.as_tensor(self.noise_std, dtype=self.values.dtype, device=self.values.device)
        noise = check_noise(noise, self.values.shape, self.mask)
        object.__setattr__(self, "key", _or_places(self.key, len(self.values)))
        for name in ("season", "instant", "wander", "key", "time"):
            index = getattr(self, name)
            if index is not None and index.shape != self.values.shape[:1]:
                raise InputError(
                    f"{name} has shape {tuple(index.shape)}; one for each of the "
                    f"{len(self.values)} records was expected."
                )
        size = math.prod(self.values.shape[1:])
        if self.shared is not None and (
            len(self.shared) != len(self.values) or any(b.shape[0] != size for b in self.shared)
        ):
            raise InputError(
                f"shared= has {len(self.shared)} loadings of {[b.shape for b in self.shared[:3]]}; "
                f"({size}, k) was expected for each of the {len(self.values)} records."
            )
        if self.around is not None and (self.time is None or self.around.time is None):
            raise InputError(
                "around= was given without the times of all records; give time= to both "
                "measurements, in steps of the history."
            )
        # `where` rather than a product: NaN times zero is NaN.
        object.__setattr__(self, "values", torch.where(self.mask, self.values, 0.0))
        object.__setattr__(self, "noise_std", torch.where(self.mask, noise, 1.0))
        if not bool(torch.isfinite(self.values).all()):
            raise InputError("observed values must be finite; mark missing ones in the mask.")

    @classmethod
    def of(
        cls, values: Tensor, noise_std: Tensor | float, operator: LinearMap | None = None
    ) -> Measurement:
        """Make a measurement of values (batch, channel, observation), NaN where missing.

        Examples:
            >>> y = torch.tensor([[[1.0, torch.nan, 3.0]]])
            >>> measurement = Measurement.of(y, noise_std=0.5)
            >>> measurement.mask
            tensor([[[ True, False,  True]]])
            >>> measurement.values
            tensor([[[1., 0., 3.]]])
        """
        noise = torch.as_tensor(noise_std, dtype=values.dtype, device=values.device)
        return cls(
            values,
            ~torch.isnan(values),
            noise,
            operator=_or_identity(operator, values.shape[-1]),
        )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (batch, channel, node) of the fields behind the measurement."""
        return len(self.values), self.values.shape[1], self.operator.num_nodes

    def to(self, device: torch.device) -> Measurement:
        """Return the measurement on a device; season, key and times, which are indices, stay."""
        return replace(
            self,
            values=self.values.to(device),
            mask=self.mask.to(device),
            noise_std=self.noise_std.to(device),
            scale=None if self.scale is None else self.scale.to(device),
            around=None if self.around is None else self.around.to(device),
        )

    def float(self) -> Measurement:
        """Return the measurement in single precision."""
        return replace(
            self,
            values=self.values.float(),
            noise_std=self.noise_std.float(),
            scale=None if self.scale is None else self.scale.float(),
            around=None if self.around is None else self.around.float(),
        )

    def __getitem__(self, index: slice | Tensor) -> Measurement:
        """Return some of the records, with all that are around them."""
        return replace(
            self,
            values=self.values[index],
            mask=self.mask[index],
            noise_std=self.noise_std[index],
            scale=None if self.scale is None else self.scale[index],
            season=None if self.season is None else self.season[index],
            instant=None if self.instant is None else self.instant[index],
            wander=None if self.wander is None else self.wander[index],
            key=self.key[index],
            time=None if self.time is None else self.time[index],
            shared=None if self.shared is None else self._shared_of(index),
        )

    def _shared_of(self, index: slice | Tensor) -> tuple[sp.csr_array, ...]:
        assert self.shared is not None
        return tuple(self.shared[i] for i in torch.arange(len(self))[index].tolist())

    def among(self, index: slice | Tensor) -> Measurement:
        """Return some of the records, with this measurement around them."""
        return replace(self[index], around=replace(self, around=None))

    def repeat(self, times: int) -> Measurement:
        """Return the whole batch of measurements `times` times in a row."""
        return self[torch.arange(len(self)).repeat(times)]

    def season_of(self, seasons: int) -> Tensor:
        """Return the index (batch,) of each record's season, zero if there is one season only.

        Raises:
            InputError: If there are several seasons and those of the records are not known, or
                one is not among them.
        """
        if self.season is not None:
            if bool(((self.season < 0) | (self.season >= seasons)).any()):
                raise InputError(
                    f"season={self.season.tolist()} given; expected an index from 0 to "
                    f"{seasons - 1} for each record."
                )
            return self.season
        if seasons > 1:
            raise InputError(
                f"there are {seasons} seasons; pass season=, an index (month - 1) for each record."
            )
        return torch.zeros(len(self), dtype=torch.long)

    @property
    def hidden(self) -> Tensor:
        """Nodes (batch, channel, node) without an observation of their own; all, if A averages."""
        if self.operator.is_identity:
            return ~self.mask
        return torch.ones(self.shape, dtype=torch.bool, device=self.mask.device)

    def apply(self, signal: Tensor) -> Tensor:
        """Return A (scale x), (batch, channel, observation); differentiable."""
        return self.operator.apply(signal if self.scale is None else self.scale * signal)

    def adjoint(self, values: Tensor) -> Tensor:
        """Return scale A^T y, (batch, channel, node); differentiable."""
        projected = self.operator.adjoint(values)
        return projected if self.scale is None else self.scale * projected

    def back_project(self, values: Tensor) -> Tensor:
        """Return A^T y / scale, (batch, channel, node), in the units of the signal."""
        projected = self.operator.adjoint(values)
        return projected if self.scale is None else projected / self.scale

    def log_likelihood(self, signal: Tensor) -> Tensor:
        """Return log N(y; A (scale x), R) (batch,) of signals (batch, channel, node)."""
        standardized = (self.values - self.apply(signal)) / self.noise_std
        each = -0.5 * (standardized**2 + math.log(2 * math.pi)) - self.noise_std.log()
        return torch.where(self.mask, each, 0.0).flatten(1).sum(1)


def _or_identity(operator: LinearMap | None, count: int) -> LinearMap:
    return IdentityMap(count) if operator is None else operator


def _or_places(key: Tensor | None, count: int) -> Tensor:
    return torch.arange(count) if key is None else key
