"""Conditional normalizing flows q(x | y), whose networks are evaluated once a field."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from apsgeo.flows.context import feature_count, measured_features
from apsgeo.flows.coupling import ElementwiseMap
from apsgeo.flows.roughness import Roughness
from apsgeo.flows.start import Known, Moments, Start
from apsgeo.gaussian.draws import Base
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.independent import Independent
from apsgeo.measurement import Measurement, NoiseDraws
from apsgeo.operators.base import HELD_OUT_DENSITIES

__all__ = ["Conditioning", "CouplingFlow", "Flow", "FlowDraws"]

_SHARES = min(HELD_OUT_DENSITIES), max(HELD_OUT_DENSITIES)
"""Least and greatest observed share, between which the spread is calibrated."""


@dataclass(frozen=True)
class Conditioning:
    """The part of a batch of measurements that the maps of a flow see.

    Attributes:
        mean: Mean (batch, channel, node) of the base.
        log_share: Log (batch,) of the share of values that are observed.
    """

    mean: Tensor
    log_share: Tensor
    free: ClassVar[tuple[str, ...]] = ("mean",)
    """Attributes that can be fitted to a measurement later; see `apsgeo.refinement.adapt`."""

    def replaced(self, **values: Tensor) -> Self:
        """Return the conditioning with some attributes replaced."""
        return replace(self, **values)

    def detach(self) -> Self:
        """Return the conditioning without gradients."""
        return type(self)(*(value.detach() for value in vars(self).values()))


def log_share(measurement: Measurement) -> Tensor:
    """Return the log of the observed share (batch,), clamped to the range `__SHARES`; float64."""
    return measurement.mask.flatten(1).double().mean(1).clamp(*_SHARES).log()


class Flow(nn.Module, ABC):
    r"""A flow x = T(c d; y), where d is the deviation of a draw of the base from its mean.

    Training ends by setting log c = `spread[0] + spread[1] * log_share` so that members' spread
    matches their error on held-out fields, with the observed share clamped to `_SHARES`.
    A subclass evaluates all that depends on y alone in `condition`, once a measurement. Its maps
    are light, and are evaluated for all members together.

    Args:
        base: Method whose Gaussian draws the flow starts from.
        known: Fields that the networks see beside the measurement, if any.
    """

    spread: Tensor
    spec: Any = None  # the spec that it was built from; see `apsgeo.flows.build`

    def __init__(self, base: Base, known: Known | None = None) -> None:
        super().__init__()
        self.base, self.known = base, known
        self.register_buffer("spread", torch.zeros(2))

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return f"flow from {self.base.name}"

    def posterior(self, measurement: Measurement) -> FlowDraws:
        """Return q(x | y), after one evaluation of the networks for each measurement."""
        return FlowDraws(self, measurement.float())

    def covariates(self, measurement: Measurement) -> Tensor | None:
        """Return the known fields (batch, feature, node) that the networks see, on their device.

        None if there are none.
        """
        return None if self.known is None else self.known(measurement).to(self.device)

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.spread.device

    @property
    def anchor(self) -> SeasonalPrior | None:
        """The Gaussian prior behind the base, if it has one."""
        base = self.base
        prior = base.prior if isinstance(base, VecchiaPrior | Independent) else base
        return prior if isinstance(prior, SeasonalPrior) else None

    def marginals(self, conditioning: Any) -> tuple[Tensor, Tensor] | None:
        """Return mean and standard deviation (batch, channel, node) of the members, if normal.

        None where they are not, or are not known without draws.
        """
        return None

    @property
    def memory(self) -> Memory | None:
        """The memory in time of the base, if it has one."""
        return self.base.memory if isinstance(self.base, VecchiaPrior) else None

    @property
    def functionals(self) -> Tensor:
        """Fields (k, channel * node) with which the flow sees the variance of inner products."""
        return torch.empty(0, 0)

    @abstractmethod
    def condition(self, start: Start) -> Any:
        """Evaluate the networks of the measurement, once for each field.

        Args:
            start: Measurements, and moments of the base given them.

        Returns:
            The `Conditioning` that `push` and `pull` take.
        """

    @abstractmethod
    def _push(self, deviation: Tensor, conditioning: Any) -> tuple[Tensor, Tensor]:
        """Map deviations (member, batch, channel, node) to fields and log |det|."""

    @abstractmethod
    def _pull(self, fields: Tensor, conditioning: Any) -> tuple[Tensor, Tensor]:
        """Undo `_push`, and return the fields' log |det| of `_push` too."""

    def push(self, deviation: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """Map base deviations (member, batch, channel, node) to fields and log |det|."""
        log_spread = self._log_spread(conditioning)
        fields, log_det = self._push(log_spread.exp() * deviation, conditioning)
        return fields, log_det + self._spread_det(fields, log_spread)

    def pull(self, fields: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """Map fields back to base deviations, and return log |det| of `push` there."""
        log_spread = self._log_spread(conditioning)
        deviation, log_det = self._pull(fields, conditioning)
        return deviation * (-log_spread).exp(), log_det + self._spread_det(fields, log_spread)

    def _log_spread(self, conditioning: Conditioning) -> Tensor:
        """Return log c (batch, 1, 1)."""
        return (self.spread[0] + self.spread[1] * conditioning.log_share)[:, None, None]

    @staticmethod
    def _spread_det(fields: Tensor, log_spread: Tensor) -> Tensor:
        return (fields[0, 0].numel() * log_spread[:, 0, 0]).expand(fields.shape[:2])


@dataclass(frozen=True)
class _NodeConditioning(Conditioning):
    """The part of a batch of measurements that node by node maps see.

    Attributes:
        std: Standard deviation (batch, channel, node) of the base.
        context: Context (batch, feature, node), from the context network.
    """

    std: Tensor
    context: Tensor
    free: ClassVar[tuple[str, ...]] = ("mean", "context")


class CouplingFlow(Flow):
    r"""A flow x = mean + std T(c r; context(y)), where r is the base's standardized deviation.

    Args:
        base: Method whose Gaussian draws the flow starts from.
        context: Network from `inputs` features to features of the context.
        transforms: Invertible maps in the order of sampling.
        roughness: Roughness of the base's mean that the context network sees; none by default.
        known: Fields that the networks see beside the measurement, if any.
    """

    def __init__(
        self,
        base: Base,
        context: nn.Module,
        transforms: list[nn.Module],
        roughness: Roughness | None = None,
        known: Known | None = None,
    ) -> None:
        super().__init__(base, known)
        self.context = context
        self.roughness = roughness
        self.transforms = nn.ModuleList(transforms)

    @staticmethod
    def inputs(
        channels: int, known: Known | None = None, roughness: Roughness | None = None
    ) -> int:
        """Return the number of features that `condition` gives to the context network."""
        return feature_count(channels, known, roughness)

    def condition(self, start: Start) -> _NodeConditioning:
        """Evaluate the context network once for each measurement; see `Flow.condition`."""
        measurement, mean, std = start.measurement, start.mean, start.std()
        features = measured_features(start, self.covariates(measurement), self.roughness)
        context = self.context(features)
        return _NodeConditioning(mean, log_share(measurement).to(mean), std, context)

    def marginals(self, conditioning: _NodeConditioning) -> tuple[Tensor, Tensor] | None:
        """Return mean and standard deviation of the members, if all maps are node by node affine.

        The base must know its own, as `VecchiaPrior` does.
        """
        if not isinstance(self.base, VecchiaPrior):
            return None
        std = self._log_spread(conditioning).exp()
        mean = torch.zeros_like(std)
        for transform in self.transforms:
            if not (isinstance(transform, ElementwiseMap) and transform.affine):
                return None
            shift, scale = transform.shift_and_scale(conditioning.context)
            mean, std = shift + scale * mean, scale * std
        return conditioning.mean + conditioning.std * mean, conditioning.std * std

    def _push(self, deviation: Tensor, conditioning: _NodeConditioning) -> tuple[Tensor, Tensor]:
        r, total = deviation / conditioning.std, deviation.new_zeros(deviation.shape[:2])
        for transform in self.transforms:
            r, log_det = transform(r, conditioning.context)
            total = total + log_det
        return conditioning.mean + conditioning.std * r, total

    def _pull(self, fields: Tensor, conditioning: _NodeConditioning) -> tuple[Tensor, Tensor]:
        r, total = (
            (fields - conditioning.mean) / conditioning.std,
            fields.new_zeros(fields.shape[:2]),
        )
        for transform in reversed(self.transforms):
            r, log_det = transform.inverse(r, conditioning.context)  # type: ignore[operator]
            total = total + log_det
        return conditioning.std * r, total


class FlowDraws(NoiseDraws):
    """q(x | y) of a batch of measurements, on standardized anomalies.

    The networks are evaluated once, when the draws are made. Members and densities cost only the
    light transforms.
    """

    def __init__(self, flow: Flow, measurement: Measurement) -> None:
        self.flow, self.measurement = flow, measurement
        self.base = flow.base.posterior(measurement)
        # The base is solved on the CPU.
        start = Moments.of(self.base, flow.functionals).to(flow.device)
        self.conditioning: Conditioning = flow.condition(start)

    def with_conditioning(self, conditioning: Conditioning) -> FlowDraws:
        """Return the draws for the same measurements with another conditioning."""
        other = copy.copy(self)
        other.conditioning = conditioning
        return other

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one draw."""
        return self.base.noise_dim

    def noise_batches(self, count: int, seed: int, size: int, first: int = 0) -> Iterator[Tensor]:
        """Yield the noise (member, batch, noise_dim) that members of the base are made of."""
        return self.base.noise_batches(count, seed, size, first)

    def from_noise(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, noise_dim) to fields (member, batch, channel, node)."""
        deviations = self.base.deviations(noise).to(self.conditioning.mean)
        fields, _ = self.flow.push(deviations, self.conditioning)
        return fields

    def log_prob(self, signal: Tensor) -> Tensor:
        """Return log q(x | y) (..., batch) of fields (..., batch, channel, node)."""
        members = self.as_members(signal).to(self.conditioning.mean)
        deviations, log_det = self.flow.pull(members, self.conditioning)
        energy = self.base.energy(deviations.cpu())  # where the base was solved
        base = (self.base.peak_log_prob() - energy).to(log_det)
        return (base - log_det).reshape(signal.shape[:-2])
