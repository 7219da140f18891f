"""What a variable looks like on its own grid, as `apsgeo.fit_prior` learned it."""

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
from apsgeo.domains.base import Domain
from apsgeo.errors import GridError, InputError
from apsgeo.gaussian.fit import contiguous_folds, fit_gaussian
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.io import load_model, part, save_folder
from apsgeo.labels.channels import as_array, check_variables
from apsgeo.labels.layout import Layout, layout_of
from apsgeo.labels.records import fields_of, record_dim, season_index, split_records
from apsgeo.measurement import Normals

__all__ = ["FieldPrior"]


@dataclass
class FieldPrior:
    """A prior of one variable, or of several as channels, on one grid, in the units of the data.

    Attributes:
        domain: Where the fields live.
        normals: Climatological mean and spread.
        gaussian: The hybrid Gaussian prior, on standardized anomalies; its annual form is the
            anchor of the diffusion prior.
        anchor: The Gaussian prior whose posterior flows start from: localised where its size
            allows, else the hybrid itself.
        diffusion: The diffusion prior, or None if it was not asked for.
        units, name: Of the variable, or None if unknown.
        held_out_from: Date from which on the history was held out, or number of the first such
            record where there are no dates, or None.
        provenance: How it was fitted.
        history: The fields that it was fitted to, if they are at hand; not saved.
    """

    domain: Domain
    normals: Normals
    gaussian: SeasonalPrior
    anchor: SeasonalPrior
    diffusion: DiffusionPrior | None = None
    units: str | None = None
    name: str | None = None
    held_out_from: str | int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    history: xr.DataArray | None = None

    def __repr__(self) -> str:
        return (
            f"FieldPrior({self.name!r} [{self.units}] on {self.domain!r}, {self.anchor!r}, "
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

    def season_of(self, history: xr.DataArray | xr.Dataset) -> Tensor:
        """Return the season index (record,) of each record."""
        history = self._array(history)
        records = record_dim(history, self._layout(history))
        return season_index(history, records, self.normals.seasons)

    def values_of(self, history: xr.DataArray | xr.Dataset) -> Tensor:
        """Return the values (record, channel, node) as they are, float64.

        Raises:
            GridError: If the history is not on the prior's domain.
        """
        history = self._array(history)
        return fields_of(history, self._layout(history))

    def encode(self, history: xr.DataArray | xr.Dataset) -> Tensor:
        """Return standardized anomalies (record, channel, node), float32.

        Raises:
            GridError: If the history is not on the prior's domain.
        """
        standardized = self.normals.standardize(self.values_of(history), self.season_of(history))
        return torch.where(self.normals.valid, standardized, 0.0).float()

    def split(self, history: xr.DataArray | xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
        """Return the records to learn from and those held out, arrays with channels."""
        history = self._array(history)
        records = record_dim(history, self._layout(history))
        return split_records(history, records, self.held_out_from)

    def _array(self, history: xr.DataArray | xr.Dataset) -> xr.DataArray:
        array = as_array(history)
        if isinstance(history, xr.Dataset):
            check_variables(array, self.name, given="the history", wanted="the prior")
        return array

    def _layout(self, history: xr.DataArray) -> Layout:
        layout = layout_of(history, self.domain, given="the history", wanted="the prior")
        count = 1 if layout.channel is None else history.sizes[layout.channel]
        if count != self.normals.mean.shape[1]:
            raise GridError(
                f"the history has {count} channels, and the prior {self.normals.mean.shape[1]}; "
                "give the same variables or colours"
            )
        return layout

    def refit(self, like: SeasonalPrior, fields: Tensor, season: Tensor) -> SeasonalPrior:
        """Fit a prior of the same scales to other fields, such as all but one fold."""
        return fit_gaussian(
            like.scales.relearn(like.field, fields),
            fields,
            like.scales,
            rank=like.eofs.rank,
            season=season,
            seasons=self.normals.seasons,
        )

    def cross_fitted(
        self, like: SeasonalPrior, fields: Tensor, season: Tensor, folds: int
    ) -> list[SeasonalPrior]:
        """Return one prior of the same scales a contiguous fold, fitted without that fold."""
        fold = contiguous_folds(len(fields), folds)
        return [self.refit(like, fields[fold != f], season[fold != f]) for f in range(folds)]

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
            "name": self.name,
            "held_out_from": self.held_out_from,
            "provenance": self.provenance,
            "diffusion": None,
        }
        if self.anchor is not self.gaussian:
            config["anchor"], state = self.anchor.to_state()
            tensors |= {f"anchor.{name}": value for name, value in state.items()}
        if self.diffusion is not None:
            config["diffusion"], state = self.diffusion.to_state()
            tensors |= {f"diffusion.{name}": value for name, value in state.items()}
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
        return cls(
            domain=domain,
            normals=Normals.from_tensors(tensors),
            gaussian=gaussian,
            anchor=anchor,
            diffusion=diffusion,
            units=config["units"],
            name=config["name"],
            held_out_from=config["held_out_from"],
            provenance=config["provenance"],
        )
