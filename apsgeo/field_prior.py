"""The prior of a variable on its own grid, as `apsgeo.fit_prior` learned it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from apsgeo import domains
from apsgeo.diffusion import spec
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.diffusion.riemannian.prior import RiemannianPrior
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.fit import contiguous_folds, fit_gaussian
from apsgeo.gaussian.gappy.completion import Gappy, complete_records
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.io import load_model, part, save_folder
from apsgeo.labels.forms.form import PLAIN, Form
from apsgeo.labels.forms.reading import form_from_config
from apsgeo.labels.records import Records
from apsgeo.measurement import Normals, normals_from

__all__ = ["FieldPrior"]

Labelled = xr.DataArray | xr.Dataset | Records


@dataclass
class FieldPrior:
    """A prior of one variable, or of several as channels, on one grid, in the units of the data.

    Attributes:
        domain: Domain of the fields.
        normals: Climatological mean and standard deviation.
        gaussian: The hybrid Gaussian prior, on standardized anomalies; its annual form is the
            anchor of the diffusion prior.
        anchor: The Gaussian prior whose posterior flows start from: localised where its size
            allows, else the hybrid itself.
        diffusion: The diffusion prior, or None if it was not asked for.
        units, variable: Units and name of the variable, or None if unknown.
        held_out_from: Date, or without dates the number, of the first record that was held out, or
            None.
        provenance: Record of how it was fitted.
        history: Records to learn from and held out, if they are at hand; not saved.
        memory: How records follow each other in time, or None if each is on its own.
        form: How values are written in labelled data; see `apsgeo.labels.forms`.
    """

    domain: Domain
    normals: Normals
    gaussian: SeasonalPrior
    anchor: SeasonalPrior
    diffusion: DiffusionPrior | RiemannianPrior | None = None
    units: str | None = None
    variable: str | None = None
    held_out_from: str | int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    history: Records | None = None
    memory: Memory | None = None
    form: Form = PLAIN

    def __repr__(self) -> str:
        return (
            f"FieldPrior({self.variable!r} [{self.units}] on {self.domain!r}, "
            f"{self.normals.described}, {self.anchor!r}, {self.memory or 'no memory'}, "
            f"diffusion={self.diffusion is not None})"
        )

    @property
    def denoising(self) -> xr.Dataset:
        """The held-out denoising of the diffusion prior by level of noise, a table along ``level``.

        ``mse`` and ``mse_anchor``, that of the Gaussian prior, in standardized units squared, and
        ``gain`` in nats, by ``noise_std`` and ``log_snr``; see
        `apsgeo.diffusion.fit.train_diffusion`. It is saved with the prior.

        Raises:
            InputError: If there is no diffusion prior.
        """
        curve = self.provenance.get("denoising")
        if not curve:
            raise InputError("the prior has no diffusion prior; fit one with steps above 0.")
        columns = {name: ("level", [row[name] for row in curve]) for name in curve[0]}
        del columns["level"]
        return xr.Dataset(columns).set_coords(["noise_std", "log_snr"])

    @property
    def denoiser(self) -> DiffusionPrior:
        """The diffusion prior of anomalies, which iterative samplers walk with.

        Raises:
            InputError: If there is none, or it is one on a manifold.
        """
        if self.diffusion is None:
            raise InputError("the prior has no diffusion prior; fit one with steps above 0.")
        if isinstance(self.diffusion, RiemannianPrior):
            raise InputError(
                f"the diffusion prior is one on {self.diffusion.manifold!r}, and what walks among "
                "numbers needs one of anomalies: fit it with a DenoiserSpec, or distill a flow"
            )
        return self.diffusion

    def records(self, fields: Labelled, given: str = "the history") -> Records:
        """Read the labels of fields, and check that they are of the prior's kind.

        Args:
            fields: Fields ([record,] ...) on the prior's domain; `Records` come back as they are.
            given: Name of the fields in messages.

        Raises:
            GridError: If the fields are not on the prior's domain, or have other channels.
            InputError: If the fields have other variables.
            UnitsError: If both units are known and differ.
        """
        if isinstance(fields, Records):
            return fields
        written = self.form.encode(fields, given)
        records = Records.of(written, self.domain, given=given, wanted="the prior")
        records.check("the prior", self.variable, self.units, self.normals.data_channels)
        return records

    def season_of(self, fields: Labelled) -> Tensor:
        """Return the season index (record,) of each record; see `records` for errors."""
        return self.records(fields).season(self.normals.seasons)

    def encode(self, fields: Labelled) -> Tensor:
        """Return standardized anomalies (record, channel, node), float32.

        They are zero where the prior has no values (land). See `records` for errors.
        """
        records = self.records(fields)
        season = self.season_of(records)
        return self.normals.latent(records.values, season, self.domain, records.instants)

    def complete(self, fields: Labelled, seed: int = 0) -> Records:
        """Return records whose gaps hold members of the anchor's posterior, given the others.

        Records without gaps, but for land, come back as they are. See `records` for errors.
        """
        records = self.records(fields)
        values = records.values
        if not bool(values[..., self.normals.valid].isnan().any()):
            return records
        gappy = Gappy(
            values,
            torch.zeros((), dtype=torch.float64),
            self.season_of(records),
            self.normals.seasons,
            instant=records.instants,
        )
        local = VecchiaPrior(self.anchor)
        filled = complete_records(local, gappy, self.normals, seed=seed, progress=False)
        return records.filled(filled)

    def split(self, history: Labelled) -> tuple[Records, Records]:
        """Return the records to learn from and those held out; see `records` for errors."""
        return self.records(history).as_history().split(self.held_out_from)

    def cross_fitted(
        self, like: SeasonalPrior, fields: Tensor, season: Tensor, folds: int
    ) -> list[SeasonalPrior]:
        """Return for each contiguous fold a prior of the same scales, fitted without that fold."""
        fold = contiguous_folds(len(fields), folds)
        fitted = [
            fit_gaussian(
                like.scales.relearn(like.field, fields[fold != f]),
                fields[fold != f],
                like.scales,
                rank=like.eofs.rank,
                season=season[fold != f],
                seasons=self.normals.seasons,
            )
            for f in range(folds)
        ]
        for prior in fitted:
            prior.drift, prior.spread = like.drift, like.spread
        return fitted

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Save as a folder of JSON and safetensors; the history is not saved."""
        gaussian, state = self.gaussian.to_state()
        tensors = {f"gaussian.{name}": value for name, value in state.items()}
        tensors |= self.normals.to_tensors()
        config: dict[str, Any] = {
            "domain": self.domain.to_config(),
            "gaussian": gaussian,
            "anchor": None,
            "units": self.units,
            "name": self.variable,
            "held_out_from": self.held_out_from,
            "provenance": self.provenance,
            "diffusion": None,
            "memory": None,
            "values": self.normals.to_config(),
            "form": self.form.to_config(),
        }
        if self.anchor is not self.gaussian:
            config["anchor"], state = self.anchor.to_state()
            tensors |= {f"anchor.{name}": value for name, value in state.items()}
        if self.diffusion is not None:
            config["diffusion"], state = self.diffusion.to_state()
            tensors |= {f"diffusion.{name}": value for name, value in state.items()}
        if self.memory is not None:
            config["memory"], state = self.memory.to_state()
            tensors |= {f"memory.{name}": value for name, value in state.items()}
        return save_folder(path, "prior", config, tensors, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FieldPrior:
        """Load what `save` wrote.

        Raises:
            ModelError: If the folder is damaged, altered, newer, or not a prior.
        """
        return load_model(path, "prior", cls._from_state)

    @classmethod
    def _from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> FieldPrior:
        domain = domains.from_config(config["domain"])
        gaussian = SeasonalPrior.from_state(config["gaussian"], part(tensors, "gaussian."), domain)
        anchor = gaussian
        if config["anchor"] is not None:
            anchor = SeasonalPrior.from_state(config["anchor"], part(tensors, "anchor."), domain)
        diffusion = None
        if (described := config["diffusion"]) is not None:
            skip = gaussian.annual if described["anchored"] else None
            diffusion = spec.from_state(described, part(tensors, "diffusion."), domain, skip)
        memory = None
        if config.get("memory") is not None:
            memory = Memory.from_state(config["memory"], part(tensors, "memory."))
        return cls(
            domain=domain,
            normals=normals_from(tensors, config.get("values")),
            gaussian=gaussian,
            anchor=anchor,
            diffusion=diffusion,
            units=config["units"],
            variable=config["name"],
            held_out_from=config["held_out_from"],
            provenance=config["provenance"],
            memory=memory,
            form=form_from_config(config.get("form")),
        )
