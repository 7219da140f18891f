"""Fit a prior: `fit_prior` learns from a history what a variable looks like."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from apsgeo.device import choose_device, on_device
from apsgeo.diffusion.fit import train_diffusion
from apsgeo.diffusion.foretell import foretell_fit
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.diffusion.riemannian.fit import fit_riemannian
from apsgeo.diffusion.riemannian.spec import RiemannianSpec
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.domains.base import Domain
from apsgeo.domains.symmetry import Symmetries
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.fit import add_drift, contiguous_folds, fit_gaussian, select_scales
from apsgeo.gaussian.left_out.records import held_out_spread
from apsgeo.gaussian.localised import MOST_VALUES
from apsgeo.gaussian.scales import (
    HybridScales,
    LocalisedScales,
    Scales,
    to_config,
)
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.labels.forms.reading import form_of, with_lengths
from apsgeo.labels.history.gaps import fill_history, has_gaps, with_something
from apsgeo.labels.history.memory import fit_memory
from apsgeo.labels.history.scores import fit_quantiles, from_scores, in_scores
from apsgeo.labels.history.trend import fit_trend, preferred_trend
from apsgeo.labels.noise import history_noise
from apsgeo.labels.quality import Control, check_control, checked_history
from apsgeo.labels.records import Records, static_fields
from apsgeo.measurement import (
    Bounds,
    Normals,
    ProjectedNormals,
    QuantileNormals,
    ValuedNormals,
    bounds_in,
    fit_normals,
)
from apsgeo.measurement.normals import out_of_sample
from apsgeo.optim.distributed import is_first
from apsgeo.optim.training import Training, seeded
from apsgeo.progress import say
from apsgeo.random_field.fit import fit_random_field, lacks_history
from apsgeo.values.flat import Euclidean
from apsgeo.values.manifold import Manifold
from apsgeo.values.values import Values

__all__ = ["FieldPrior", "fit_prior"]

_WHOLE = 0.999  # observed share of a coarse cell that counts as all of it


def fit_prior(
    history: xr.DataArray | xr.Dataset,
    domain: Domain | None = None,
    *,
    manifold: str | Manifold | Values | Any | None = None,
    static: xr.DataArray | xr.Dataset | None = None,
    baseline: tuple[str, str] | None = None,
    least_std: float = 1e-3,
    noise_std: float | ArrayLike | xr.DataArray | None = None,
    trend: Literal["auto", "linear"] | xr.DataArray | None = "auto",
    bounds: Bounds | Sequence[Bounds] | Literal["found"] | None = "found",
    held_out_from: str | int | None = None,
    quality_control: Control = "flag",
    seasons: int | None = None,
    scales: Scales | None = None,
    anchor_scales: Scales | None = None,
    rank: int = 400,
    skip: Literal["gaussian", "none"] = "gaussian",
    spec: DenoiserSpec | RiemannianSpec | None = None,
    augment: Symmetries | None = None,
    memory: bool = True,
    folds: int = 4,
    seed: int = 0,
    training: Training = Training(),
    **settings: Any,
) -> FieldPrior:
    """Learn what a variable looks like from a history, or from one gappy field or a few.

    It fits normals by season (if there are dates that cover all), a Gaussian prior whose scales are
    chosen by the score of held-out predictions, and a diffusion prior on top of it.

    A history with gaps that change with time is completed first: each gap holds a member of the
    posterior of its record, given what was observed (`apsgeo.gaussian.gappy.completion`). Normals,
    Gaussian priors, the diffusion prior and flows then learn from the completed history, which is
    the prior's `history`. Scales are chosen by observed cells alone. Values with bounds are
    filled in the normal scores of their quantiles, which are those of what was observed.

    One gappy field, or fewer than 24 with gaps that change, are no history. The prior is then a
    random field that is fitted to the observations alone, with `static` as covariates of its mean;
    see `apsgeo.random_field.fit.fit_random_field`. Besides, `domain` and `seed` matter, no more.

    Args:
        history: Fields with the dim time and those of one domain, such as (time, lat, lon)
            or (time, cells), in any order, NaN where nothing was observed. Nodes that are seen in
            fewer than two records are taken for land: from the history alone, land and a cell that
            nobody ever saw are the same. The dim of dates may have any name. Samples without dates
            have a dim that is not named time, and are counted in their order. A stacked ensemble,
            ``.stack(record=("member", "time"))``, keeps its dates.
            Several channels are along a dim channel, band or rgb, or are the variables of a data
            set; `apsgeo.windows` makes channels of neighbouring times. They share one land.
        domain: Domain of the fields, if their labels do not say it, as on a mesh. See
            `apsgeo.labels.layout.layout_of` for how labels and domain go together.
        manifold: What each value lies on, if it is no number: "circle" for angles, "sphere",
            "axes", "rotations", "rotations/cubic", "spd" for tensors, "torus", "hyperbolic"; a
            manifold of `apsgeo.values` or of geomstats, or `Values` for a choice of chart. By
            default what the attributes tell; see `apsgeo.labels.forms.reading.form_of` and
            docs/values.md.
        static: Static fields of the nodes, such as orography, on the same domain and without
            time, for the network of the diffusion prior. Land and positions it knows already.
        baseline: First and last date of the climatological mean, such as ("1961", "2000"); the
            whole history by default.
        least_std: Least standard deviation that a node is standardized by, as a share of the root
            mean square of all nodes. Raise it (0.3, say) for images whose borders hardly vary,
            where a rare value else is hundreds of standard deviations and rules the training.
        noise_std: Standard deviation of the error of the history's observations, in the units of
            the data: a number, one for each cell, or an array like the history; none by default.
            With errors the prior is one of the fields behind them.
        trend: "linear" for normals that move on in a straight line, or an index (time,) with dates,
            such as the logarithm of CO2, which they follow; it has to cover the times to come, and
            stays as it is beyond its ends. None for normals of the baseline. The slopes are drawn
            to their mean by as much as held-out records ask for, and their pattern stays in the
            prior, so that observations correct what the trend foretells (docs/history.md). By
            default held-out years choose between "linear" and None, if there are three of them and
            fifteen years before; variables with bounds have no trend.
        bounds: Least and greatest value that the variable can have, such as ``(0, None)`` for rain
            and ``(0, 1)`` for a fraction; one pair for each channel, if there are several. Members
            keep to them, and are at a bound as often as the data are: values are mapped by their
            quantiles (`apsgeo.measurement.QuantileNormals`). By default those that are found: a
            bound is where one in twenty values of a dated history is exactly its least or greatest,
            and that is 0, 1 or 100 or most cells have such values.
            None for none.
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
        spec: Architecture of the diffusion prior: the size of its network, its noise schedule. A
            `RiemannianSpec` makes it a diffusion on the manifold of the values itself, without an
            anchor; `skip` and `augment` do not matter to it.
        augment: Symmetries of the domain that standardized anomalies have too, such as
            ``domain_of(history).symmetries.only("left-right")``, which move the fields that the
            diffusion prior is trained on.
        memory: Whether to learn how records follow each other, if the history has dates, so that
            gaps are filled from neighbouring times too; see `apsgeo.gaussian.time.memory.Memory`.
            As much of it is kept as predicts held-out records best, which may be nothing; see
            `apsgeo.gaussian.time.choice`. A history that hardly has a memory has none.
        folds: Contiguous blocks of the history for cross-fitting.
        seed: Seed of masks, noise and weights.
        training: Settings of the diffusion prior's training, by default 1500 steps of 16 fields;
            ``Training(steps=0)`` leaves it out. The prior comes back on the CPU.
        **settings: Settings of the training given by name, which go before those of `training`:
            ``fit_prior(..., steps=0, progress=False)``.

    Raises:
        InputError: If the history is too short, has infinite values, or has no dates where they
            are needed; if the checkpoint is of another run, or symmetries move land.
        GridError: If its labels do not say the domain, or do not fit the one given.

    Warns:
        SeldomSeenWarning: If cells are seen in one record only, and are taken for land.
    """
    training = training.filled(steps=1500, batch=16, settings=settings)
    spec = DenoiserSpec() if spec is None else spec
    form = with_lengths(form_of(history, manifold), history)
    if isinstance(spec, RiemannianSpec):
        spec = spec.on(form.values)
    records = Records.of(form.encode(history, "the history"), domain, given="the history")
    if form.values is not None:
        _check_valued(records, form.values, noise_std, trend, bounds)
        quality_control, bounds, trend = "off", None, None
    if lacks_history(records):
        return fit_random_field(records, static=static, seed=seed, progress=training.progress)
    for argument, given in (("scales", scales), ("anchor_scales", anchor_scales)):
        if given is not None and not hasattr(given, "field"):
            raise InputError(
                f"{argument}={given!r} given; expected apsgeo.HybridScales(...), "
                "apsgeo.LocalisedScales(...), or none, to have them chosen"
            )
    records = checked_history(records.as_history(), check_control(quality_control))
    records, noise = with_something(records, history_noise(noise_std, records))
    domain = records.layout.domain
    if held_out_from is None:
        held_out_from = records.dates.last_tenth()
    earlier, later = records.parts(held_out_from)
    seasons = records[earlier].dates.count_seasons(seasons)
    within = None if baseline is None else torch.from_numpy(records.dates.within(*baseline))
    filled, mapped, gappy = None, None, noise is not None or has_gaps(records.values)
    automatic = isinstance(trend, str) and trend == "auto"
    found = _bounds(records, bounds, noise=noise, trend=None if automatic else trend)
    bounded = any(end is not None for each in found for end in each)
    if gappy:
        to_fill = records
        if bounded:  # quantiles are those of what was observed; gaps are filled in their scores
            mapped = fit_quantiles(
                records, found, seasons, held_out_from, within, least_std=least_std
            )
            to_fill = in_scores(records, mapped)
        filled = fill_history(
            to_fill,
            torch.zeros((), dtype=torch.float64) if noise is None else noise,
            held_out_from,
            seasons,
            baseline=None if bounded else baseline,
            least_std=least_std,
            scales=anchor_scales if isinstance(anchor_scales, LocalisedScales) else None,
            rank=rank,
            seed=seed,
            progress=training.progress,
        )
        records = filled.records if mapped is None else from_scores(records, filled, mapped)
    learned, held = records.split(held_out_from)
    season = learned.season(seasons)
    within = None if within is None else within[torch.from_numpy(earlier)]
    normals: Normals
    if mapped is not None:
        normals = mapped
    elif filled is None:
        normals = fit_normals(
            form.values,
            learned.values,
            season,
            seasons,
            within,
            least_std=least_std,
            domain=domain,
        )
    else:
        normals = filled.normals
    if automatic:
        trend = None if bounded else preferred_trend(normals, learned, held, within)
    if trend is not None:
        normals = replace(normals, trend=fit_trend(trend, normals, learned, held, within))
    known = static_fields(static, normals.valid, domain)
    _check_land(augment, normals.valid)
    if bounded and mapped is None:
        normals = QuantileNormals.of(normals, learned.values, season, found, domain)
    fields = normals.latent(learned.values, season, domain, learned.instants)
    if filled is None and not (bounded or isinstance(normals, ProjectedNormals)):
        # the others have quantiles, and shrunk means
        fields = fields * out_of_sample(season, seasons, within).float()[:, None, None]
    fit: dict[str, Any] = {"rank": rank, "season": season, "seasons": seasons}
    search: dict[str, Any] = {"folds": folds, "seed": seed, "progress": training.progress} | fit
    observed = None
    if filled is not None:
        observed = filled.observed[torch.from_numpy(earlier)]
    search["observed"] = observed
    if training.progress:  # every process of a distributed training takes part
        starts: dict[str, Any] = {}
        if scales is None:
            starts["hybrid"] = domain, fields, HybridScales.start(domain)
        if anchor_scales is None and (few := _small_enough(domain, fields, None)) is not None:
            starts["localised"] = *few[:2], LocalisedScales.start(domain)
        like = spec.flat if isinstance(spec, RiemannianSpec) else spec
        told = foretell_fit(fields, starts, like, training, search | {"observed": None})
        if is_first():
            say(told)
    if scales is None:
        scales = select_scales(domain, fields, HybridScales.start(domain), **search)
    gaussian = anchor = fit_gaussian(scales.field(domain, fields), fields, scales, **fit)
    if anchor_scales is None and (small := _small_enough(domain, fields, observed)) is not None:
        search["observed"] = small[2]
        anchor_scales = select_scales(*small[:2], LocalisedScales.start(domain), **search)
    if isinstance(anchor_scales, LocalisedScales):
        field = anchor_scales.field(domain, fields)
        anchor = fit_gaussian(field, fields, anchor_scales, **fit)
    if normals.trend is not None:
        for each in {id(prior): prior for prior in (gaussian, anchor)}.values():
            add_drift(each, fields, normals.trend.pattern, seed)
    if isinstance(normals, ProjectedNormals):
        normals = _widened(normals, anchor, held, len(fields) / seasons, seed)
    choice = None
    if memory and (normals.linear or bounded):
        observed = None if filled is None else filled.observed[torch.from_numpy(earlier | later)]
        choice = fit_memory(anchor, normals, learned, held, rank=rank, observed=observed, seed=seed)
    if choice is not None and training.progress:
        tqdm.write(str(choice), sys.stderr)
    prior = FieldPrior(
        domain=domain,
        normals=normals,
        gaussian=gaussian,
        anchor=anchor,
        units=records.units,
        variable=records.name,
        held_out_from=held_out_from,
        history=records,
        memory=None if choice is None else choice.memory,
        form=form,
        provenance={
            "learned_from": learned.dates.span,
            "records": len(fields),
            "scales": to_config(gaussian.scales),
            "anchor_scales": to_config(anchor.scales),
            "trend": None if normals.trend is None else str(getattr(trend, "name", trend)),
            "gaps": None if filled is None else filled.provenance,
            "baseline": baseline,
            "least_std": least_std,
            "bounds": found,
            "memory": None if choice is None else choice.provenance,
            "seed": seed,
            "steps": training.steps,
            "augment": list(augment or ()),
            "patience": training.patience,
            "skip": skip,
            "denoiser": spec.to_config(),
        },
    )
    if training.steps and isinstance(spec, RiemannianSpec):
        _fit_riemannian(prior, spec, learned, held, known, seed, training)
    elif training.steps:
        skipped = gaussian.annual if skip == "gaussian" else None
        assert isinstance(spec, DenoiserSpec)
        with seeded(seed):
            denoiser = spec.build(domain, fields.shape[1], skipped, known)
        validation = prior.encode(held) if len(held) else fields
        options = {"seed": seed, "augment": augment}
        _fit_diffusion(prior, denoiser, fields, season, validation, folds, training, **options)
    return prior


def _widened(
    normals: ProjectedNormals, anchor: SeasonalPrior, held: Records, each: float, seed: int
) -> ProjectedNormals:
    """Return normals with the spread that held-out records ask for.

    Without any it is that of a normal value about the mean of so many `each` season.
    """
    spread = ((each + 1.0) / max(each - 1.0, 1.0)) ** 0.5
    if len(held):
        season = held.season(normals.seasons)
        fields = normals.encode(held.values, season, held.instants)
        spread = held_out_spread(anchor, fields, season, normals.valid, seed=seed)
    return replace(normals, spread=torch.tensor(spread))


def _check_valued(
    records: Records, values: Values, noise_std: Any, trend: Any, bounds: Any
) -> None:
    """Refuse what is not for values on a manifold.

    Raises:
        InputError: If noise, a trend or bounds are given, or the history lacks values at times.
    """
    named = [] if noise_std is None else ["noise_std"]
    automatic = trend is None or (isinstance(trend, str) and trend == "auto")
    if not automatic:
        named.append("trend")
    if bounds not in ("found", None):
        named.append("bounds")
    if named:
        raise InputError(
            f"{', '.join(named)} of a history of values on {values.manifold!r}; leave out what is "
            "for numbers"
        )
    if lacks_history(records):
        raise InputError(
            f"{records.given} is one field or a few with gaps, and no history; fill it by "
            "apsgeo.impute(obs, manifold=...), which needs none"
        )
    if has_gaps(records.values) and not isinstance(values.manifold, Euclidean):
        raise InputError(
            f"{records.given} lacks values on {values.manifold!r} at some records only; gaps that "
            "change are completed for numbers alone. Fill them by apsgeo.impute(history, "
            "manifold=...) and fit to one member, or leave out the records, or the nodes, with gaps"
        )


def _bounds(
    records: Records,
    bounds: Bounds | Sequence[Bounds] | Literal["found"] | None,
    *,
    noise: Tensor | None,
    trend: Any,
) -> list[Bounds]:
    """Return the bounds of each channel; of samples, which have no dates, none are found.

    Raises:
        InputError: If there are not as many as channels, a lower one is not below the upper, or
            there are errors or a trend as well.
    """
    channels = records.values.shape[1]
    found = bounds == "found"
    alone = noise is None and trend is None
    if bounds is None or (found and not (alone and records.dates.known)):
        return [(None, None)] * channels
    if noise is not None:
        raise InputError(
            f"bounds={bounds!r} of a history with errors (noise_std=): quantiles of values with "
            "errors are not those of the fields behind them, and a dry value with an error is no "
            "longer at the bound; leave out noise_std=, if the errors are small, or give bounds="
            "None"
        )
    if trend is not None:
        raise InputError(
            f"bounds={bounds!r} of a history with a trend (trend=): how often values are at a "
            "bound changes with it, and one quantile map holds for all times; leave out trend=, or "
            "give bounds=None"
        )
    if found:
        return [bounds_in(records.values[:, channel]) for channel in range(channels)]
    given: Any = bounds
    pairs = [given] if len(given) == 2 and not isinstance(given[0], tuple | list) else list(given)
    low_high = [pair for pair in pairs if len(pair) == 2]
    if len(low_high) != channels or any(
        low is not None and high is not None and not low < high for low, high in low_high
    ):
        raise InputError(
            f"bounds={bounds!r}; give (least, greatest), None where there is none, for each of the "
            f"{channels} channels"
        )
    return [(low, high) for low, high in low_high]


def _small_enough(
    domain: Domain, fields: Tensor, observed: Tensor | None
) -> tuple[Domain, Tensor, Tensor | None] | None:
    """Coarsen fields until the scales of a localised covariance can be chosen on them.

    The scales are lengths in km and shares, which larger cells do not change. A larger cell is
    observed where all of it is. None where a large domain cannot be coarsened.
    """
    while fields[0].numel() > MOST_VALUES:
        if not domain.can_coarsen:
            return None
        pool = domain.pool()
        if observed is not None:
            observed = pool(observed.float()) > _WHOLE
        fields, domain = pool(fields), domain.coarse()
    return domain, fields, observed


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


def _fit_riemannian(
    prior: FieldPrior,
    spec: RiemannianSpec,
    learned: Records,
    held: Records,
    known: Tensor,
    seed: int,
    training: Training,
) -> None:
    """Fit the diffusion prior on the manifold of the values."""
    assert isinstance(prior.normals, ValuedNormals)
    seasons = prior.normals.seasons
    prior.diffusion, log = fit_riemannian(
        prior.domain,
        prior.normals,
        learned.values,
        learned.season(seasons),
        held.values,
        held.season(seasons),
        size=spec.size,
        static=known,
        seed=seed,
        training=training,
    )
    prior.provenance["denoising"] = [record for record in log if "level" in record]


def _fit_diffusion(
    prior: FieldPrior,
    denoiser: DiffusionPrior,
    fields: Tensor,
    season: Tensor,
    validation: Tensor,
    folds: int,
    training: Training,
    **options: Any,
) -> None:
    """Train a diffusion prior, cross-fitted where it has an anchor, and give it to the prior."""
    prior.diffusion, crossfit = denoiser, None
    if denoiser.anchor is not None:
        fold = contiguous_folds(len(fields), folds)
        anchors = prior.cross_fitted(prior.gaussian, fields, season, folds)
        crossfit = [(a.annual, (fold == f).nonzero()[:, 0]) for f, a in enumerate(anchors)]
    place = choose_device(training.device)
    with on_device(place, denoiser):
        log = train_diffusion(
            denoiser,
            fields.to(place),
            validation.to(place),
            training,
            crossfit=crossfit,
            **options,
        )
    prior.provenance["denoising"] = [record for record in log if "level" in record]
