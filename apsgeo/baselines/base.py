"""What a baseline is given, and what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from apsgeo.errors import InputError
from apsgeo.measurement import Measurement, Normals
from apsgeo.metrics.predictions import NormalPrediction, Prediction

__all__ = ["Array", "LinearBaseline", "Method", "Observations"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Observations:
    """Records of a single-channel field, observed at some nodes, in the unit of the data.

    Attributes:
        values: (T, N); whatever stands under the mask is replaced by zero.
        mask: (T, N), true where observed.
        noise_std: (T, N), or broadcastable to it; positive.
        season: (T,) index of the season (0 to 11 for January to December).
        key: (T,) int64 naming each record, from which random draws are seeded.

    Raises:
        InputError: if the shapes disagree, or an observed value or its noise is not usable.
    """

    values: Array
    mask: NDArray[np.bool_]
    noise_std: Array
    season: NDArray[np.int64]
    key: NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = self.values.shape
        if len(shape) != 2 or self.mask.shape != shape or self.mask.dtype != np.bool_:
            raise InputError(
                f"values {shape} and mask {self.mask.shape} {self.mask.dtype} given; "
                "expected both (record, node), the mask boolean"
            )
        if self.season.shape != shape[:1] or self.key.shape != shape[:1]:
            raise InputError(
                f"season {self.season.shape} and key {self.key.shape} given for {shape[0]} "
                "records; expected one each"
            )
        noise = np.broadcast_to(np.asarray(self.noise_std, dtype=np.float64), shape)
        if not (np.isfinite(noise) & (noise > 0))[self.mask].all():
            raise InputError("noise_std must be finite and above zero wherever a value is observed")
        if not np.isfinite(self.values[self.mask]).all():
            raise InputError("observed values must be finite; mark missing ones in the mask")
        values = np.where(self.mask, self.values, 0.0).astype(np.float64)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "noise_std", noise)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice) -> Observations:
        return Observations(
            self.values[index],
            self.mask[index],
            self.noise_std[index],
            self.season[index],
            self.key[index],
        )

    def standardized(self, normals: Normals) -> Measurement:
        """Return the measurement of standardized anomalies, (T, 1, N) in float64."""
        season = torch.from_numpy(self.season)
        values = torch.from_numpy(self.values)[:, None]
        noise = torch.tensor(self.noise_std)[:, None]
        std = normals.std.double()[season]
        mask = torch.from_numpy(self.mask)[:, None]
        return Measurement(normals.standardize(values, season), mask, noise / std)

    def filled(self) -> Array:
        """Return the values (T, N) with NaN where nothing was observed."""
        return np.where(self.mask, self.values, np.nan)


class Method(Protocol):
    """Anything that fills gaps: a baseline, or a trained posterior."""

    @property
    def name(self) -> str:
        """Return the name in tables."""
        ...

    def predict(self, observations: Observations) -> Prediction:
        """Return the predictive distribution (T, N) of the field itself, without noise."""


class LinearBaseline(ABC):
    """A baseline that is Gaussian in standardized anomalies, one record at a time.

    Args:
        normals: turn data into standardized anomalies u = (x - mean) / std and back.
    """

    name: ClassVar[str]

    def __init__(self, normals: Normals) -> None:
        self.normals = normals

    @abstractmethod
    def posterior(
        self, values: Array, mask: NDArray[np.bool_], noise_std: Array
    ) -> tuple[Array, Array]:
        """Return mean and standard deviation (N,) given one record's (N,) in anomalies."""

    def predict(self, observations: Observations) -> NormalPrediction:
        """Return the normal prediction (T, N) of each record, in the unit of the data."""
        measured = observations.standardized(self.normals)
        moments = [
            self.posterior(y.numpy(), m.numpy(), r.numpy())
            for y, m, r in zip(
                measured.values[:, 0], measured.mask[:, 0], measured.noise_std[:, 0], strict=True
            )
        ]
        shape = observations.values.shape
        mean = torch.tensor(np.array([m for m, _ in moments]).reshape(shape))[:, None]
        std = np.array([s for _, s in moments]).reshape(shape)
        season = torch.from_numpy(observations.season)
        restored = self.normals.restore(mean, season)[:, 0].numpy()
        scale = self.normals.std.double()[season, 0].numpy()
        return NormalPrediction(restored, std * scale)
