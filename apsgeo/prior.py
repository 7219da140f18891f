"""What a variable looks like on its own grid: `fit_prior` learns it, `FieldPrior` keeps it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor

from apsgeo import domains
from apsgeo.domains.base import Domain
from apsgeo.domains.layout import Layout, layout_of
from apsgeo.errors import InputError
from apsgeo.io import load_model, part, save_folder
from apsgeo.nn import UNet
from apsgeo.priors.diffusion import COND_DIM, DiffusionPrior
from apsgeo.priors.diffusion_fit import train_diffusion
from apsgeo.priors.gaussian_fit import contiguous_folds, fit_gaussian, select_scales
from apsgeo.priors.localised import MOST_VALUES
from apsgeo.priors.normals import Normals
from apsgeo.priors.scales import (
    HybridScales,
    LocalisedScales,
    Scales,
    to_config,
)
from apsgeo.priors.seasonal import SeasonalPrior
from apsgeo.records import (
    count_seasons,
    fields_of,
    last_tenth,
    record_dim,
    records_within,
    season_index,
    split_records,
)

__all__ = ["FieldPrior", "fit_prior"]

_WIDTH, _DEPTH = 16, 4  # of the denoising U-Net
_LEVELS = 20  # each caches a factorization of the anchor


@dataclass
class FieldPrior:
    """A prior of one variable on one grid, in the units of the data.

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
        `apsgeo.priors.diffusion_fit.train_diffusion`. It is saved with the prior.

        Raises:
            InputError: If there is no diffusion prior.
        """
        curve = self.provenance.get("denoising")
        if not curve:
            raise InputError("the prior has no diffusion prior; fit one with steps above 0.")
        columns = {name: ("level", [row[name] for row in curve]) for name in curve[0]}
        del columns["level"]
        return xr.Dataset(columns).set_coords(["noise_std", "log_snr"])

    def season_of(self, history: xr.DataArray) -> Tensor:
        """Return the season index (record,) of each record."""
        records = record_dim(history, self._layout(history))
        return season_index(history, records, self.normals.seasons)

    def encode(self, history: xr.DataArray) -> Tensor:
        """Return standardized anomalies (record, channel, node), float32.

        Raises:
            GridError: If the history is not on the prior's domain.
        """
        fields = fields_of(history, self._layout(history))
        standardized = self.normals.standardize(fields, self.season_of(history))
        return torch.where(self.normals.valid, standardized, 0.0).float()

    def split(self, history: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
        """Return the records to learn from and those held out."""
        records = record_dim(history, self._layout(history))
        return split_records(history, records, self.held_out_from)

    def _layout(self, history: xr.DataArray) -> Layout:
        return layout_of(history, self.domain, given="the history", wanted="the prior")

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
            diffusion = DiffusionPrior.from_state(
                described, part(tensors, "diffusion."), domain, skip
            )
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


def fit_prior(
    history: xr.DataArray,
    domain: Domain | None = None,
    *,
    baseline: tuple[str, str] | None = None,
    held_out_from: str | int | None = None,
    scales: Scales | None = None,
    anchor_scales: Scales | None = None,
    rank: int = 400,
    skip: Literal["gaussian", "none"] = "gaussian",
    steps: int = 1500,
    patience: int | None = None,
    folds: int = 4,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
) -> FieldPrior:
    """Learn what a variable looks like from complete fields.

    Monthly normals (if there is a time axis that covers all months), a Gaussian prior whose
    scales are chosen by the score of held-out predictions, and a diffusion prior on top of it.

    Args:
        history: Complete fields with the dim time and those of one domain, such as (time, lat, lon)
            or (time, cells), in any order; nodes that are NaN at every time are taken for land.
            Samples without dates have another dim than time, whose records count as they come.
        domain: Where they live, if their labels do not say it: that of a mesh, say. See
            `apsgeo.domains.layout.layout_of` for how labels and domain go together.
        baseline: First and last date of the climatological mean, such as ("1961", "2000"); the
            whole history by default.
        held_out_from: Date, or number of the record, from which on records only decide when to
            stop; the last tenth of the history by default.
        scales: Of the hybrid covariance, if already known; spares the search.
        anchor_scales: Of the anchor's covariance, likewise; those of a hybrid covariance for the
            anchor to be that of `scales`. By default the anchor is localised if the field has at
            most 20 000 values.
        rank: Number of EOFs.
        skip: "gaussian" gives the denoiser the Gaussian prior as skip connection, "none" is the
            paper's plain form.
        steps: Training steps of the diffusion prior; 0 for none.
        patience: Stop its training early after so many of the validations, one each tenth of the
            steps, without a better denoising of the held-out records. The best weights are kept
            in any case.
        folds: Contiguous blocks of the history for cross-fitting.
        seed: Of masks, noise and weights.
        progress: Show progress bars.
        checkpoint: A folder that keeps the state of the training of the diffusion prior: called
            again alike after it was killed, it goes on from there, to the same bits.
        log: A CSV file of the training so far: step, loss, learning rate, validation.

    Raises:
        InputError: If the history is too short, has gaps that change with time, or has no dates
            where they are needed; if the checkpoint is of another run.
        GridError: If its labels do not say the domain, or do not fit the one given.
    """
    layout = layout_of(history, domain, given="the history")
    domain = layout.domain
    records = record_dim(history, layout)
    history = layout.ordered(history)
    if held_out_from is None:
        held_out_from = last_tenth(history, records)
    learned, _ = split_records(history, records, held_out_from)
    seasons = count_seasons(learned)
    season = season_index(learned, records, seasons)
    within = None if baseline is None else records_within(learned, baseline)
    normals = Normals.fit(fields_of(learned, layout), season, seasons, within)
    prior = FieldPrior(
        domain=domain,
        normals=normals,
        gaussian=None,  # type: ignore[arg-type]  # set below: `encode` needs the normals only
        anchor=None,  # type: ignore[arg-type]
        units=history.attrs.get("units"),
        name=None if history.name is None else str(history.name),
        held_out_from=held_out_from,
        history=history,
    )
    fields = prior.encode(learned)
    fit: dict[str, Any] = {"rank": rank, "season": season, "seasons": seasons}
    search: dict[str, Any] = {"folds": folds, "seed": seed, "progress": progress} | fit
    if scales is None:
        scales = select_scales(domain, fields, HybridScales.start(domain), **search)
    prior.gaussian = fit_gaussian(scales.field(domain, fields), fields, scales, **fit)
    prior.anchor = prior.gaussian
    localised = anchor_scales is None or isinstance(anchor_scales, LocalisedScales)
    if localised and fields[0].numel() <= MOST_VALUES:
        if anchor_scales is None:
            anchor_scales = select_scales(domain, fields, LocalisedScales.start(domain), **search)
        field = anchor_scales.field(domain, fields)
        prior.anchor = fit_gaussian(field, fields, anchor_scales, **fit)
    prior.provenance = {
        "learned_from": [str(learned[records].values[at]) for at in (0, -1)],
        "records": len(fields),
        "scales": to_config(prior.gaussian.scales),
        "anchor_scales": to_config(prior.anchor.scales),
        "baseline": baseline,
        "seed": seed,
        "steps": steps,
        "patience": patience,
        "skip": skip,
    }
    if steps:
        training: dict[str, Any] = {"steps": steps, "patience": patience, "seed": seed}
        training |= {"progress": progress, "checkpoint": checkpoint, "log": log}
        _fit_diffusion(prior, fields, skip, folds, **training)
    return prior


def _fit_diffusion(
    prior: FieldPrior, fields: Tensor, skip: str, folds: int, *, seed: int, **training: Any
) -> None:
    """Train the diffusion prior in place, cross-fitted where it has an anchor."""
    assert prior.history is not None
    held = prior.encode(prior.split(prior.history)[1])
    torch.manual_seed(seed)
    anchor = prior.gaussian.annual if skip == "gaussian" else None
    channels = fields.shape[1]
    prior.diffusion = DiffusionPrior(
        prior.domain,
        channels,
        UNet(
            prior.domain,
            channels if anchor is None else 2 * channels,
            channels,
            width=_WIDTH,
            depth=_DEPTH,
            cond_dim=COND_DIM,
        ),
        anchor=anchor,
        levels=_LEVELS,
    )
    crossfit = None
    if anchor is not None:
        fold = contiguous_folds(len(fields), folds)
        season = prior.season_of(prior.split(prior.history)[0])
        anchors = prior.cross_fitted(prior.gaussian, fields, season, folds)
        crossfit = [(a.annual, (fold == f).nonzero()[:, 0]) for f, a in enumerate(anchors)]
    log = train_diffusion(
        prior.diffusion,
        fields,
        held if len(held) else fields,
        seed=seed,
        crossfit=crossfit,
        **training,
    )
    prior.provenance["denoising"] = [record for record in log if "level" in record]
