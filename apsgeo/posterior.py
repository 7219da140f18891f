"""The product: a method with all that it needs to fill gaps in the units of the data."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor

from apsgeo import domains, operators
from apsgeo.device import choose_device
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.build import build_flow, spec_from_config
from apsgeo.flows.flow import Flow
from apsgeo.flows.spec import Site
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.flows.start import Known
from apsgeo.gaussian.left_out.refined import refined
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.regimes import LowRankMixturePrior
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.shared.posterior import WithSharedErrors
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.io import digest_of, load_model, part, read_digest, save_folder
from apsgeo.labels.forms.form import PLAIN, Form
from apsgeo.labels.forms.reading import form_from_config
from apsgeo.labels.steps import DAY, history_step_days
from apsgeo.measurement import (
    Family,
    Measurement,
    Method,
    Normals,
    normals_from,
)
from apsgeo.measurement.distribution import FieldDistribution
from apsgeo.operators import LinearMap, Operator

__all__ = ["Posterior"]


@dataclass
class Posterior:
    """An amortized posterior: `posterior(y)` is the distribution of the field behind y.

    It is a method in the units of the data, made of one on standardized anomalies.

    Attributes:
        domain: Domain of the fields.
        normals: Climatological mean and standard deviation, in the units of the data.
        operator: Operator that measures, or a family; see `apsgeo.operators.families`.
        method: Method that samples standardized anomalies: a conditional flow, or any other.
        noise_std: Default standard deviation (observation,) of the measurement noise, in the units
            of the data.
        units: Units of the data, or None if unknown.
        variable: Name of the variable.
        provenance: Record of how it was made: data, command, seed, scores.
        form: How values are written in labelled data; see `apsgeo.labels.forms`.
    """

    domain: Domain
    normals: Normals
    operator: Operator
    method: Method
    noise_std: Tensor
    units: str | None = None
    variable: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    form: Form = PLAIN

    def __repr__(self) -> str:
        return (
            f"Posterior({self.variable!r} [{self.units}] on {self.domain!r}, "
            f"{self.normals.described}, {self.operator!r}, {self.name})"
        )

    @classmethod
    def of(
        cls, prior: FieldPrior, method: Method, operator: Operator, noise_std: float | Tensor
    ) -> Posterior:
        """Make a posterior in a prior's units of a method on standardized anomalies.

        Args:
            prior: Prior of the variable, whose normals and labels are used.
            method: Method that samples anomalies: ``prior.anchor``, a baseline, or any other.
            operator: Operator that measures, or a family.
            noise_std: Default standard deviation of the noise: a number, or one an observation.

        Examples:
            >>> import apsgeo, numpy as np, xarray as xr
            >>> from apsgeo.baselines.gaussian import climatology
            >>> values = np.random.default_rng(0).normal(size=(40, 3, 4))
            >>> images = xr.DataArray(values, dims=("sample", "y", "x"))
            >>> scales, none = apsgeo.HybridScales(range_km=2.0), apsgeo.Training(steps=0)
            >>> prior = apsgeo.fit_prior(images, scales=scales, anchor_scales=scales, training=none)
            >>> posterior = Posterior.of(prior, climatology(prior), apsgeo.Mask(), noise_std=0.1)
            >>> posterior(torch.full((1, 1, 12), torch.nan)).members(8, seed=0).shape
            torch.Size([8, 1, 1, 12])
        """
        return cls(
            domain=prior.domain,
            normals=prior.normals,
            operator=operator,
            method=method,
            noise_std=torch.as_tensor(noise_std, dtype=torch.float32),
            units=prior.units,
            variable=prior.variable,
            provenance={"prior": prior.provenance, "method": method.name},
            form=prior.form,
        )

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return self.method.name

    @property
    def flow(self) -> Flow:
        """The method, if it is a flow.

        Raises:
            InputError: If the method is not a flow.
        """
        if not isinstance(self.method, Flow):
            raise InputError(f"{self!r} has no flow; give a posterior from apsgeo.distill.")
        return self.method

    @property
    def memory(self) -> Memory | None:
        """How records follow each other in time, if the method knows it."""
        method = self.method.base if isinstance(self.method, Flow) else self.method
        memory = getattr(method, "memory", None)
        return memory if isinstance(memory, Memory) else None

    @property
    def step_days(self) -> float | None:
        """Days between the records of the history, by its memory or on average; None if unknown."""
        if self.memory is not None:
            return self.memory.step_days
        return history_step_days(self.provenance.get("prior", {}))

    @cached_property
    def linear_method(self) -> VecchiaPrior | SeasonalPrior | GaussianPrior:
        """The Gaussian method that takes measurements by any linear map, such as of points.

        It is the one that a flow starts from, on the same anchor and memory. The flow itself is
        trained for its own operators, and knows no others.

        Raises:
            InputError: If the method is neither Gaussian nor a flow from a Gaussian prior.
        """
        method = self.method
        if isinstance(method, Flow) and method.anchor is not None:
            base = method.base
            local = VecchiaPrior(method.anchor, method.memory)
            return base if isinstance(base, VecchiaPrior) else local
        if isinstance(method, VecchiaPrior | SeasonalPrior | GaussianPrior):
            return method
        raise InputError(
            f"{self!r} knows its own operator alone; points and other linear maps need a model "
            "that starts from a Gaussian prior, such as one of apsgeo.distill, or "
            "apsgeo.Posterior.of(prior, prior.anchor, operator, noise_std)"
        )

    @property
    def gaussian_prior(self) -> SeasonalPrior | None:
        """The Gaussian prior that a flow starts from, or that is the method; None if there is none.

        It has the log density of standardized anomalies.
        """
        prior = self.method.anchor if isinstance(self.method, Flow) else self.method
        return prior if isinstance(prior, SeasonalPrior) else None

    @cached_property
    def digest(self) -> str | None:
        """Checksum of the model, the ``sha256`` of ``config.json`` where it is saved.

        None if the method is no flow, and cannot be saved.
        """
        return digest_of("posterior", *self._state()) if isinstance(self.method, Flow) else None

    def taking(self, operator: Operator) -> Posterior:
        """Return a posterior of the same fields by `linear_method`, for any operator.

        The default noise is the same, or its mean if it was one for each observation.
        """
        noise = self.noise_std
        per_channel = noise.shape == (self.normals.channels, 1)
        noise = noise if noise.ndim == 0 or per_channel else noise.mean()
        return replace(self, operator=operator, method=self.linear_method, noise_std=noise)

    @property
    def window(self) -> int:
        """Number of records on either side that matter to the method."""
        return 0 if self.memory is None else self.memory.window

    @cached_property
    def family(self) -> Family:
        """The family of operators, on the domain."""
        return Family(self.operator, self.domain)

    @property
    def linear(self) -> LinearMap:
        """The operator on the domain.

        Raises:
            InputError: If the posterior is for several operators; see `Family.on`.
        """
        return self.family.on()

    def to(self, device: str) -> Posterior:
        """Move the networks to "cpu", "cuda" or what "auto" finds, and return the posterior."""
        if isinstance(self.method, torch.nn.Module):
            self.method.to(choose_device(device))
        return self

    def measure(
        self,
        y: Tensor,
        season: Tensor | None = None,
        noise_std: float | Tensor | None = None,
        operator: Operator | None = None,
        key: Tensor | None = None,
        time: Tensor | None = None,
        instant: Tensor | None = None,
    ) -> Measurement:
        """Return the measurement of y (batch, channel, observation), in the units of the data.

        Raises:
            InputError: If the shape, the season, the noise or the operator does not fit.
        """
        linear = self.family.on(operator)
        expected = (self.normals.data_channels, linear.num_observations)
        axis = "node" if linear.is_identity else "observation"
        if y.ndim != 3 or y.shape[1:] != expected:
            raise InputError(
                f"y has shape {tuple(y.shape)}; expected (batch, channel, {axis}) with "
                f"(channel, {axis}) = {expected}."
            )
        noise = self.noise_std if noise_std is None else torch.as_tensor(noise_std)
        time, instant = self._times(time, instant)
        values = y.float()
        given = Measurement(
            values,
            ~torch.isnan(values),
            noise.float(),
            operator=linear,
            season=season,
            instant=instant,
            key=torch.arange(len(y)) if key is None else key,
            time=time,
        )
        given.season_of(self.normals.seasons)
        return given

    def _times(
        self, time: Tensor | None, instant: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return times in steps and in microseconds since 1970; one follows from the other.

        Raises:
            InputError: If there is a trend, and neither is known.
        """
        step = None if self.memory is None else self.memory.step_days
        if step is not None and time is None and instant is not None:
            time = instant.double() / (step * DAY)
        if step is not None and instant is None and time is not None:
            instant = time.double() * (step * DAY)
        if instant is None and self.normals.trend is not None:
            raise InputError(
                "the model has a trend, so that it has to know when the records are; pass "
                "instant=, microseconds since 1970 for each, or give labelled fields with dates to "
                "apsgeo.impute. A model without a trend is that of fit_prior(..., trend=None)."
            )
        return time, instant

    def posterior(self, measurement: Measurement) -> FieldDistribution:
        """Return the posterior of the fields behind measurements in the units of the data."""
        given = replace(measurement, operator=self.family.own(measurement.operator))
        return self._distribution(self.method, given)

    def linear_posterior(self, measurement: Measurement) -> FieldDistribution:
        """Return the posterior by `linear_method` of measurements by any linear map."""
        return self._distribution(self.linear_method, measurement)

    def _distribution(self, method: Method, given: Measurement) -> FieldDistribution:
        base = method.base if isinstance(method, Flow) else method
        measured = refined(self.normals, given, self.normals.measure(given), base)
        if given.shared is not None:
            factor = measured.noise_std.double() / given.noise_std.double()
            scaled = [
                (sp.diags_array(each.reshape(-1).numpy()) @ loadings).tocsr()
                for each, loadings in zip(factor, given.shared, strict=True)
            ]
            measured = replace(measured, shared=tuple(scaled))
            method = WithSharedErrors(method, self.linear_method)
        return FieldDistribution(method.posterior(measured), self.normals)

    def __call__(
        self,
        y: Tensor,
        *,
        season: Tensor | None = None,
        noise_std: float | Tensor | None = None,
        operator: Operator | None = None,
        key: Tensor | None = None,
        time: Tensor | None = None,
        instant: Tensor | None = None,
    ) -> FieldDistribution:
        """Return the distribution of the fields behind y, by one network evaluation for each.

        Args:
            y: Values (batch, channel, observation) in the units of the data, NaN where not
                observed; the observations of masks are the nodes.
            season: Index (batch,) of each record's season (month - 1), if the normals know seasons.
            noise_std: Standard deviation of the measurement noise, a number or one an observation,
                in the data's units.
            operator: Operator that measured, where the model is for several.
            key: Number (batch,) int64 that names each record and seeds its members; by default its
                place in the batch.
            time: Time (batch,) of each record in steps of the history, which follows from `instant`
                if the history has dates. If it is known, and the method has a memory, each record
                is drawn given those near it, too.
            instant: Time (batch,) of each record, in microseconds since 1970, which a model with a
                trend has to know; it follows from `time` if the history has dates.

        Raises:
            InputError: If the shape, the season, the noise or the operator does not fit.
        """
        given = self.measure(y, season, noise_std, operator, key, time, instant)
        together = given.time is not None and self.window > 0
        return self.posterior(given.among(slice(None)) if together else given)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Save as a folder of JSON and safetensors; see `apsgeo.io.save_folder`.

        Raises:
            InputError: If the method is no flow.
        """
        return save_folder(path, "posterior", *self._state(), overwrite=overwrite)

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors that are saved."""
        flow = self.flow
        tensors = {f"flow.{name}": value for name, value in flow.state_dict().items()}
        tensors |= self.normals.to_tensors()
        tensors["noise_std"] = self.noise_std
        config: dict[str, Any] = {
            "domain": self.domain.to_config(),
            "operator": self.operator.to_config(),
            "spec": flow.spec.to_config(),
            "units": self.units,
            "name": self.variable,
            "provenance": self.provenance,
            "values": self.normals.to_config(),
            "form": self.form.to_config(),
            "anchor": None,
            "memory": None,
        }
        if flow.anchor is not None:
            config["anchor"], state = flow.anchor.to_state()
            tensors |= {f"anchor.{name}": value for name, value in state.items()}
        if flow.memory is not None:
            config["memory"], state = flow.memory.to_state()
            tensors |= {f"memory.{name}": value for name, value in state.items()}
        if isinstance(flow, SpectralFlow) and flow.regimes is not None:
            state = flow.regimes.to_tensors()
            tensors |= {f"regimes.{name}": value for name, value in state.items()}
        return config, tensors

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Posterior:
        """Load what `save` wrote.

        Raises:
            ModelError: If the folder is damaged, altered, newer, or not a posterior.
        """
        loaded = load_model(path, "posterior", cls._from_state)
        vars(loaded)["digest"] = read_digest(path)
        return loaded

    @classmethod
    def _from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Posterior:
        domain = domains.from_config(config["domain"])
        normals = normals_from(tensors, config.get("values"))
        operator = operators.from_config(config["operator"])
        anchor = None
        if config["anchor"] is not None:
            state = part(tensors, "anchor.")
            anchor = SeasonalPrior.from_state(config["anchor"], state, domain)
        mixture = part(tensors, "regimes.")
        regimes = LowRankMixturePrior.from_tensors(domain, mixture) if mixture else None
        weights = part(tensors, "flow.")
        sites = weights.get("context.sites", torch.empty(0, domain.num_nodes))
        known = Known(normals, Family(operator, domain).features)
        memory = None
        if config.get("memory") is not None:
            memory = Memory.from_state(config["memory"], part(tensors, "memory."))
        site = Site(domain, normals.channels, known, sites, anchor, regimes, memory)
        flow = build_flow(site, spec_from_config(config["spec"]))
        flow.load_state_dict(weights)
        return cls(
            domain=domain,
            normals=normals,
            operator=operator,
            method=flow.eval(),
            noise_std=tensors["noise_std"],
            units=config["units"],
            variable=config["name"],
            provenance=config["provenance"],
            form=form_from_config(config.get("form")),
        )
