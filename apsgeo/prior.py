"""Fit a prior: `fit_prior` learns from complete fields what a variable looks like."""

from __future__ import annotations

from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor

from apsgeo.device import choose_device, on_device
from apsgeo.diffusion.fit import train_diffusion
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.domains.base import Domain
from apsgeo.domains.symmetry import Symmetries
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.fit import contiguous_folds, fit_gaussian, select_scales
from apsgeo.gaussian.localised import MOST_VALUES
from apsgeo.gaussian.scales import (
    HybridScales,
    LocalisedScales,
    Scales,
    to_config,
)
from apsgeo.gaussian.time.memory import Memory
from apsgeo.labels.quality import Control, check_control, checked_history
from apsgeo.labels.records import Records, static_fields
from apsgeo.labels.steps import step_days, time_in_steps
from apsgeo.measurement import Normals
from apsgeo.optim.training import Training, seeded
from apsgeo.random_field.fit import fit_random_field, lacks_history

__all__ = ["FieldPrior", "fit_prior"]


def fit_prior(
    history: xr.DataArray | xr.Dataset,
    domain: Domain | None = None,
    *,
    static: xr.DataArray | xr.Dataset | None = None,
    baseline: tuple[str, str] | None = None,
    least_std: float = 1e-3,
    held_out_from: str | int | None = None,
    quality_control: Control = "flag",
    seasons: int | None = None,
    scales: Scales | None = None,
    anchor_scales: Scales | None = None,
    rank: int = 400,
    skip: Literal["gaussian", "none"] = "gaussian",
    spec: DenoiserSpec | None = None,
    augment: Symmetries | None = None,
    memory: bool = True,
    folds: int = 4,
    seed: int = 0,
    training: Training = Training(),
    **settings: Any,
) -> FieldPrior:
    """Learn what a variable looks like from complete fields, or from one gappy field or a few.

    It fits normals by season (if there are dates that cover all), a Gaussian prior whose scales are
    chosen by the score of held-out predictions, and a diffusion prior on top of it.

    One gappy field, or fewer than 24 with gaps that change, are no history. The prior is then a
    random field that is fitted to the observations alone, with `static` as covariates of its mean;
    see `apsgeo.random_field.fit.fit_random_field`. Besides, `domain` and `seed` matter, no more.

    Args:
        history: Complete fields with the dim time and those of one domain, such as (time, lat, lon)
            or (time, cells), in any order; nodes that are NaN at every time are taken for land.
            The dim of dates may have any name. Samples without dates have a dim that is not named
            time, and are counted in their order. A stacked ensemble, ``.stack(record=("member",
            "time"))``, keeps its dates.
            Several channels are along a dim channel, band or rgb, or are the variables of a data
            set; `apsgeo.windows` makes channels of neighbouring times. They share one land.
        domain: Domain of the fields, if their labels do not say it, as on a mesh. See
            `apsgeo.labels.layout.layout_of` for how labels and domain go together.
        static: Static fields of the nodes, such as orography, on the same domain and without
            time, for the network of the diffusion prior. Land and positions it knows already.
        baseline: First and last date of the climatological mean, such as ("1961", "2000"); the
            whole history by default.
        least_std: Least standard deviation that a node is standardized by, as a share of the root
            mean square of all nodes. Raise it (0.3, say) for images whose borders hardly vary,
            where a rare value else is hundreds of standard deviations and rules the training.
        held_out_from: Date or number of the first record that only decides when to stop; by default
            that of the last tenth of the history.
        quality_control: What becomes of values twenty standard deviations from the others of their
            node and month: "flag" learns from them, "reject" takes them for missing. Either warns,
            and takes well-known fill values far outside the range of all others for missing. "off"
            looks at nothing.
        seasons: Number of seasons: 1, 12 (the months), 36 or 73 parts of the year, or 72, 144 or
            192 parts of the year and the day; by default what fits the steps between records, if
            there are two records of each.
        scales: Scales of the hybrid covariance, if already known, which spares the search.
        anchor_scales: Scales of the anchor's covariance, if already known. Any of a hybrid
            covariance make the hybrid prior the anchor. By default the anchor is localised, and
            the scales of more than 20 000 values are chosen on coarser cells; on a large domain
            that cannot be coarsened it is the hybrid prior.
        rank: Number of EOFs.
        skip: "gaussian" gives the denoiser the Gaussian prior as skip connection, "none" is the
            paper's plain form.
        spec: Architecture of the diffusion prior: the size of its network, its noise schedule.
        augment: Symmetries of the domain that standardized anomalies have too, such as
            ``domain_of(history).symmetries.only("left-right")``, which move the fields that the
            diffusion prior is trained on.
        memory: Whether to learn how records follow each other, if the history has dates, so that
            gaps are filled from neighbouring times too; see `apsgeo.gaussian.time.memory.Memory`. A
            history that hardly has a memory has none.
        folds: Contiguous blocks of the history for cross-fitting.
        seed: Seed of masks, noise and weights.
        training: Settings of the diffusion prior's training, by default 1500 steps of 16 fields;
            ``Training(steps=0)`` leaves it out. The prior comes back on the CPU.
        **settings: Settings of the training given by name, which go before those of `training`:
            ``fit_prior(..., steps=0, progress=False)``.

    Raises:
        InputError: If the history is too short, has gaps that change with time, or has no dates
            where they are needed; if the checkpoint is of another run, or symmetries move land.
        GridError: If its labels do not say the domain, or do not fit the one given.
    """
    training = training.filled(steps=1500, batch=16, settings=settings)
    spec = DenoiserSpec() if spec is None else spec
    records = Records.of(history, domain, given="the history")
    if lacks_history(records):
        return fit_random_field(records, static=static, seed=seed, progress=training.progress)
    records = checked_history(records.as_history(), check_control(quality_control))
    domain = records.layout.domain
    if held_out_from is None:
        held_out_from = records.dates.last_tenth()
    learned, held = records.split(held_out_from)
    seasons = learned.dates.count_seasons(seasons)
    season = learned.season(seasons)
    within = None if baseline is None else torch.from_numpy(learned.dates.within(*baseline))
    normals = Normals.fit(learned.values, season, seasons, within, least_std=least_std)
    known = static_fields(static, normals.valid, domain)
    _check_land(augment, normals.valid)
    fields = normals.encode(learned.values, season)
    fit: dict[str, Any] = {"rank": rank, "season": season, "seasons": seasons}
    search: dict[str, Any] = {"folds": folds, "seed": seed, "progress": training.progress} | fit
    if scales is None:
        scales = select_scales(domain, fields, HybridScales.start(domain), **search)
    gaussian = anchor = fit_gaussian(scales.field(domain, fields), fields, scales, **fit)
    if anchor_scales is None and (small := _small_enough(domain, fields)) is not None:
        anchor_scales = select_scales(*small, LocalisedScales.start(domain), **search)
    if isinstance(anchor_scales, LocalisedScales):
        field = anchor_scales.field(domain, fields)
        anchor = fit_gaussian(field, fields, anchor_scales, **fit)
    prior = FieldPrior(
        domain=domain,
        normals=normals,
        gaussian=gaussian,
        anchor=anchor,
        units=records.units,
        variable=records.name,
        held_out_from=held_out_from,
        history=records,
        memory=_memory_of(learned, domain, fields) if memory else None,
        provenance={
            "learned_from": learned.dates.span,
            "records": len(fields),
            "scales": to_config(gaussian.scales),
            "anchor_scales": to_config(anchor.scales),
            "baseline": baseline,
            "least_std": least_std,
            "seed": seed,
            "steps": training.steps,
            "augment": list(augment or ()),
            "patience": training.patience,
            "skip": skip,
            "denoiser": spec.to_config(),
        },
    )
    if training.steps:
        skipped = gaussian.annual if skip == "gaussian" else None
        with seeded(seed):
            prior.diffusion = spec.build(domain, fields.shape[1], skipped, known)
        validation = prior.encode(held) if len(held) else fields
        options = {"seed": seed, "augment": augment}
        _fit_diffusion(prior, fields, season, validation, folds, training, **options)
    return prior


def _memory_of(records: Records, domain: Domain, fields: Tensor) -> Memory | None:
    """Fit the memory to standardized anomalies; None without dates, and for windows of times."""
    step = step_days(records.dates)
    if step is None or "lag" in records.array.dims:
        return None
    time = time_in_steps(records.dates, step).numpy()
    return Memory.fit(domain, fields, time, step_days=step)


def _small_enough(domain: Domain, fields: Tensor) -> tuple[Domain, Tensor] | None:
    """Coarsen fields until the scales of a localised covariance can be chosen on them.

    The scales are lengths in km and shares, which larger cells do not change. None where a large
    domain cannot be coarsened.
    """
    while fields[0].numel() > MOST_VALUES:
        if not domain.can_coarsen:
            return None
        fields, domain = domain.pool()(fields), domain.coarse()
    return domain, fields


def _check_land(augment: Symmetries | None, valid: Tensor) -> None:
    moved = [
        name
        for name, symmetry in (augment or {}).items()
        if not torch.equal(valid[symmetry.permutation], valid)
    ]
    if moved:
        raise InputError(
            f"the symmetries {', '.join(moved)} move nodes where the history has values to others "
            "where it has none (land); leave them out"
        )


def _fit_diffusion(
    prior: FieldPrior,
    fields: Tensor,
    season: Tensor,
    validation: Tensor,
    folds: int,
    training: Training,
    **options: Any,
) -> None:
    """Train the diffusion prior in place, cross-fitted where it has an anchor."""
    assert prior.diffusion is not None
    crossfit = None
    if prior.diffusion.anchor is not None:
        fold = contiguous_folds(len(fields), folds)
        anchors = prior.cross_fitted(prior.gaussian, fields, season, folds)
        crossfit = [(a.annual, (fold == f).nonzero()[:, 0]) for f, a in enumerate(anchors)]
    place = choose_device(training.device)
    with on_device(place, prior.diffusion):
        log = train_diffusion(
            prior.diffusion,
            fields.to(place),
            validation.to(place),
            training,
            crossfit=crossfit,
            **options,
        )
    prior.provenance["denoising"] = [record for record in log if "level" in record]
