"""The product: a trained conditional flow with all that it needs to fill gaps in a user's units."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

import apsgeo.domains as domains
import apsgeo.operators as operators
from apsgeo.device import choose_device
from apsgeo.distillation.pairs import feature_count, known_fields
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.flows.base import BasePosterior, GaussianBase, Moments
from apsgeo.flows.build import Spec, build_flow, spec_from_config
from apsgeo.flows.flow import Conditioning, Flow
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.gaussian.regimes import LowRankMixturePrior
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.io import load_model, part, save_folder
from apsgeo.measurement import Measurement, Normals
from apsgeo.operators import LinearMap, Operator

__all__ = ["FieldDistribution", "Posterior", "member_noise"]

_MOMENT_DRAWS = 128


def member_noise(seed: int, key: int, members: int, size: int) -> np.ndarray:
    """Return the standard normal noise (members, size) of a record, float32.

    It depends on (seed, key) alone and is drawn member after member, so that member k is the
    same however many are asked for.
    """
    words = [seed, key % 2**64]
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
    return generator.standard_normal((members, size), dtype=np.float32)


def members_noise(seed: int, keys: Iterable[int], members: int, size: int) -> Tensor:
    """Return the `member_noise` of each of several records, (member, record, size)."""
    each = [member_noise(seed, int(key), members, size) for key in keys]
    return torch.from_numpy(np.stack(each, axis=1))


class FieldDistribution(Distribution):
    """q(x | y) of a batch of measured fields, in the units of the data.

    `batch_shape` is (batch,), `event_shape` (channel, node). The context network was evaluated
    once, when this was made; draws and densities cost only the light transforms.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(
        self,
        posterior: Posterior,
        measurement: Measurement,
        season: Tensor,
        features: tuple[float, ...] = (),
    ) -> None:
        self._posterior, self._season, self._measurement = posterior, season, measurement
        flow, normals = posterior.flow, posterior.normals
        self._base: BasePosterior = flow.base.posterior(measurement, season)
        place = flow.device  # the base is solved on the CPU
        start = Moments.of(self._base, flow.functionals).to(place)
        told = torch.tensor([features] * len(measurement)).reshape(len(measurement), -1)
        self._given: Conditioning = flow.condition(
            start, known_fields(normals, season, told).to(place)
        )
        shape = torch.Size(measurement.shape)
        super().__init__(shape[:1], shape[1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All fields."""
        return constraints.independent(constraints.real, 2)

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one member."""
        return self._base.noise_dim

    @property
    def flow(self) -> Flow:
        """The conditional flow."""
        return self._posterior.flow

    @property
    def conditioning(self) -> Conditioning:
        """What the maps of the flow see of the measurements."""
        return self._given

    def given(self, conditioning: Conditioning) -> FieldDistribution:
        """Return the distribution of the same measurements with another conditioning."""
        other = copy.copy(self)
        other._given = conditioning
        return other

    def from_noise(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, noise_dim) to fields (member, batch, channel, node)."""
        deviations = self._base.deviations(noise).to(self._given.mean)
        fields, _ = self._posterior.flow.push(deviations, self._given)
        return self._posterior.normals.restore(fields, self._season)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw (*sample_shape, batch, channel, node) with torch's global generator."""
        members = int(np.prod(sample_shape, dtype=int))
        noise = torch.randn(members, *self.batch_shape, self.noise_dim)
        return self.from_noise(noise).reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(x | y), (..., batch), of fields (..., batch, channel, node).

        Raises:
            InputError: If some nodes are not valid (land), where there is no density.
        """
        scaled = self._standardized(value)
        lead = value.shape[: value.ndim - 3]
        deviations, log_det = self._posterior.flow.pull(scaled.to(self._given.mean), self._given)
        jacobian = log_det + self._log_units.to(log_det)
        base = self._base.peak_log_prob().to(jacobian) - self._base.energy(deviations)
        result = base - jacobian
        return result.reshape(*lead, *self.batch_shape)

    def log_joint(self, value: Tensor, log_prior: Callable[[Tensor], Tensor]) -> Tensor:
        """Return log p(x) + log p(y | x), (..., batch), of fields (..., batch, channel, node).

        It is what `log_prob` would be if the flow were exact, plus log p(y), with p(y) the density
        of the standardized measurement.

        Args:
            value: In the units of the data.
            log_prior: log p of standardized anomalies (batch, channel, node), (batch,).

        Raises:
            InputError: If some nodes are not valid (land), where there is no density.
        """
        each = [
            log_prior(fields).double() + self._measurement.log_likelihood(fields).double()
            for fields in self._standardized(value)
        ]
        result = torch.stack(each) - self._log_units.double()
        return result.reshape(*value.shape[: value.ndim - 3], *self.batch_shape)

    def _standardized(self, value: Tensor) -> Tensor:
        """Return fields (..., batch, channel, node) as anomalies (member, batch, channel, node)."""
        normals = self._posterior.normals
        if not bool(normals.valid.all()):
            raise InputError("a density needs a domain on which every node is valid.")
        members = value.reshape(-1, *self.batch_shape, *value.shape[-2:])
        return normals.standardize(members, self._season)

    @property
    def _log_units(self) -> Tensor:
        """Log-determinant (batch,) of the way from anomalies to the units of the data."""
        return self._posterior.normals.std[self._season].log().flatten(1).sum(1)

    def _moment_draws(self) -> Tensor:
        noise = members_noise(0, range(self.batch_shape[0]), _MOMENT_DRAWS, self.noise_dim)
        with torch.no_grad():
            return self.from_noise(noise)

    @property
    def mean(self) -> Tensor:
        """Mean of 128 draws with fixed noise, (batch, channel, node)."""
        return self._moment_draws().mean(0)

    @property
    def variance(self) -> Tensor:
        """Variance of 128 draws with fixed noise, (batch, channel, node)."""
        return self._moment_draws().var(0)


@dataclass
class Posterior:
    """An amortized posterior: `posterior(y)` is the distribution of the field behind y.

    Attributes:
        domain: Where the fields live.
        normals: Climatological mean and spread, in the units of the data.
        operator: What measures, or the family of what may; see `apsgeo.operators.families`.
        flow: The conditional flow, on standardized anomalies.
        spec: The flow's architecture.
        noise_std: Standard deviation of the measurement noise by default, (observation,), in data
            units.
        units: Units of the data, or None if unknown.
        name: Name of the variable.
        provenance: How it was made: data, command, seed, scores.
    """

    domain: Domain
    normals: Normals
    operator: Operator
    flow: Flow
    spec: Spec
    noise_std: Tensor
    units: str | None = None
    name: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    _maps: dict[Operator, LinearMap] = field(default_factory=dict, init=False, repr=False)

    def __repr__(self) -> str:
        return (
            f"Posterior({self.name!r} [{self.units}] on {self.domain!r}, {self.operator!r}, "
            f"{self.spec.kind} flow, base={self.spec.base!r})"
        )

    @property
    def linear(self) -> LinearMap:
        """The operator on the domain.

        Raises:
            InputError: If it is a family; see `linear_of`.
        """
        return self.linear_of(None)

    def linear_of(self, operator: Operator | None) -> LinearMap:
        """Return the map of an operator of the family on the domain; by default the only one.

        Raises:
            InputError: If it is not of the family, or none is given where there are several.
        """
        if operator is None:
            operator = self.operator
        else:
            self.operator.check(operator)
        if operator not in self._maps:
            self._maps[operator] = operator.on(self.domain)
        return self._maps[operator]

    def to(self, device: str) -> Posterior:
        """Move the networks to "cpu", "cuda" or what "auto" finds, and return the posterior."""
        self.flow.to(choose_device(device))
        return self

    def measure(
        self,
        y: Tensor,
        season: Tensor | None = None,
        noise_std: float | Tensor | None = None,
        operator: Operator | None = None,
    ) -> tuple[Measurement, Tensor]:
        """Return the standardized measurement of y (batch, channel, observation), and the seasons.

        Raises:
            InputError: If the shape, the season, the noise or the operator does not fit.
        """
        linear = self.linear_of(operator)
        expected = (self.normals.mean.shape[1], linear.num_observations)
        axis = "node" if linear.is_identity else "observation"
        if y.ndim != 3 or y.shape[1:] != expected:
            raise InputError(
                f"y has shape {tuple(y.shape)}; expected (batch, channel, {axis}) with "
                f"(channel, {axis}) = {expected}."
            )
        if season is None:
            if self.normals.seasons > 1:
                raise InputError(
                    f"this posterior knows {self.normals.seasons} seasons; pass season=, an index "
                    "(month - 1) for each field."
                )
            season = torch.zeros(len(y), dtype=torch.long)
        noise = self.noise_std if noise_std is None else torch.as_tensor(noise_std)
        try:
            noise = noise.broadcast_to(y.shape)
        except RuntimeError as error:
            raise InputError(
                f"noise_std has shape {tuple(noise.shape)}; give a number or one a {axis} "
                f"({expected[-1]}), in {self.units or 'the units of the data'}."
            ) from error
        if not bool((torch.isfinite(noise) & (noise > 0)).all()):
            raise InputError("noise_std must be finite and above zero.")
        return self.normals.measure(y.float(), noise.float(), season, linear), season

    def __call__(
        self,
        y: Tensor,
        *,
        season: Tensor | None = None,
        noise_std: float | Tensor | None = None,
        operator: Operator | None = None,
    ) -> FieldDistribution:
        """Return the distribution of the fields behind y: one network evaluation a field.

        Args:
            y: (batch, channel, observation) in the units of the data, NaN where not observed; the
                observations of masks are the nodes.
            season: (batch,) index of the season (month - 1), if the normals know seasons.
            noise_std: Of the measurement noise, a number or one an observation, in the data's
                units.
            operator: Which of the family measured, where the model is for several.

        Raises:
            InputError: If the shape, the season, the noise or the operator does not fit.
        """
        measurement, season = self.measure(y, season, noise_std, operator)
        features = self.operator.features(self.operator if operator is None else operator)
        return FieldDistribution(self, measurement, season, features)

    @torch.no_grad()
    def sample_members(
        self,
        y: Tensor,
        season: Tensor | None,
        keys: np.ndarray,
        members: int,
        seed: int,
        noise_std: float | Tensor | None = None,
        operator: Operator | None = None,
    ) -> Tensor:
        """Return reproducible members (member, batch, channel, node) in the data's units.

        Member k of the record with key t depends on (seed, t, k) alone.
        """
        distribution = self(y, season=season, noise_std=noise_std, operator=operator)
        noise = members_noise(seed, keys, members, distribution.noise_dim)
        return distribution.from_noise(noise).cpu()

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Save as a folder of JSON and safetensors; see `apsgeo.io.save_folder`."""
        tensors = {f"flow.{name}": value for name, value in self.flow.state_dict().items()}
        tensors |= self.normals.to_tensors()
        tensors["noise_std"] = self.noise_std
        config: dict[str, Any] = {
            "domain": self.domain.to_config(),
            "operator": self.operator.to_config(),
            "spec": self.spec.to_config(),
            "units": self.units,
            "name": self.name,
            "provenance": self.provenance,
            "anchor": None,
        }
        if isinstance(self.flow.base, GaussianBase):
            config["anchor"], state = self.flow.base.prior.to_state()
            tensors |= {f"anchor.{name}": value for name, value in state.items()}
        if isinstance(self.flow, SpectralFlow) and self.flow.regimes is not None:
            state = self.flow.regimes.to_tensors()
            tensors |= {f"regimes.{name}": value for name, value in state.items()}
        return save_folder(path, "posterior", config, tensors, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Posterior:
        """Load what `save` wrote.

        Raises:
            ModelError: If the folder is damaged, altered, newer, or not a posterior.
        """
        return load_model(path, "posterior", cls._from_state)

    @classmethod
    def _from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Posterior:
        domain = domains.from_config(config["domain"])
        normals = Normals.from_tensors(tensors)
        spec = spec_from_config(config["spec"])
        anchor = None
        if config["anchor"] is not None:
            state = part(tensors, "anchor.")
            anchor = SeasonalPrior.from_state(config["anchor"], state, domain)
        mixture = part(tensors, "regimes.")
        regimes = LowRankMixturePrior.from_tensors(domain, mixture) if mixture else None
        weights = part(tensors, "flow.")
        sites = weights.get("context.sites", torch.empty(0, domain.num_nodes))
        operator = operators.from_config(config["operator"])
        channels = normals.mean.shape[1]
        known = normals.covariate_count + feature_count(operator, channels)
        flow = build_flow(domain, channels, known, sites, spec, anchor, regimes)
        flow.load_state_dict(weights)
        return cls(
            domain=domain,
            normals=normals,
            operator=operator,
            flow=flow.eval(),
            spec=spec,
            noise_std=tensors["noise_std"],
            units=config["units"],
            name=config["name"],
            provenance=config["provenance"],
        )
