"""Training of one prior of the benchmark: scales by likelihood, then `apsgeo.fit_prior`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.fit import contiguous_folds, fit_gaussian, least_point
from apsgeo.gaussian.scales import HybridScales
from apsgeo.optim.training import Training
from apsgeo.prior import fit_prior
from benchmarks.trained_priors.cases import TrainedCase

FOLDS = 4  # the last is held out for the scales
MOST_HELD_OUT = 200  # records


def likeliest_scales(
    prior: FieldPrior, fields: Tensor, start: HybridScales, *, rank: int, evaluations: int
) -> HybridScales:
    """Choose the hybrid scales of the annual covariance by the likelihood of held-out fields.

    Log-densities are compared, so that the Gaussian gets the scales that are best at them.

    Args:
        prior: Prior with the domain of the fields.
        fields: Standardized anomalies (record, 1, node), of which the last quarter is held out.
        start: Scales where the Nelder-Mead search begins.
        rank: Number of EOFs.
        evaluations: Number of evaluations of the likelihood.
    """
    held = contiguous_folds(len(fields), FOLDS) == FOLDS - 1
    learned, some = fields[~held], fields[held]
    some = some[:: max(1, len(some) // MOST_HELD_OUT)]
    share = start.seasonal_share  # of no consequence to the annual covariance

    def decode(point: NDArray[np.float64]) -> HybridScales:
        return replace(HybridScales.decode(point), seasonal_share=share)

    def loss(point: NDArray[np.float64]) -> float:
        scales = decode(point)
        field = scales.field(prior.domain, learned)
        gaussian = fit_gaussian(field, learned, scales, rank=rank).annual
        found = -float(gaussian.log_prob(some).mean()) / some[0].numel()
        print(f"  {scales}: {-found:.4f} nats per value", flush=True)
        return found

    return decode(least_point(loss, start, max_evaluations=evaluations, tolerance=0.02))


def train(
    case: TrainedCase, folder: Path, *, share: float, evaluations: int, seed: int
) -> FieldPrior:
    """Fit a prior to the training fields and save it; a killed run goes on from where it was.

    Args:
        case: Data, without the test fields.
        folder: Folder of the prior; its checkpoint and its log stand beside it.
        share: Share of the case's training steps.
        evaluations: Number of evaluations of the likelihood that chooses the scales.
        seed: Seed of weights and noise.
    """
    steps = max(1, round(share * case.options["steps"]))
    options = {name: value for name, value in case.options.items() if name != "steps"}
    options["trend"] = None  # tables of a case score tensors, whose dates nobody knows
    start = replace(HybridScales.start(case.domain), eof_weight=case.eof_weight)
    known = {"scales": start, "anchor_scales": start}
    rough = fit_prior(
        case.train, case.domain, **{**options, **known}, training=Training(steps=0, device="cpu")
    )
    learned, _ = rough.split(case.train)
    scales = likeliest_scales(
        rough, rough.encode(learned), start, rank=options["rank"], evaluations=evaluations
    )
    prior = fit_prior(
        case.train,
        case.domain,
        scales=scales,
        anchor_scales=scales,
        seed=seed,
        training=Training(
            steps=steps,
            device="cpu",
            checkpoint=folder.with_name(folder.name + ".checkpoint"),
            log=folder.with_name(folder.name + ".log.csv"),
        ),
        **options,
    )
    prior.save(folder, overwrite=True)
    return prior
