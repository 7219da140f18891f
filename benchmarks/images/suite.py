"""Denoise, fill, sharpen and refine images, and look for noise where none belongs.

python -m benchmarks images                    writes benchmarks/results/images/*, and figures
python -m benchmarks images --parts fashion    one data set

For each data set a prior is fitted to training images, and for each task a flow is distilled from
it, by maximum likelihood and CRPS on simulated measurements of training images. It is compared with
the exact posterior of the Gaussian prior, with its own start, and on some tasks with another
architecture that was trained alike. Priors and the results
of each task are kept in build/images, so that a run that was stopped goes on; remove that folder
after changes of the code.
"""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import apsgeo
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.spec import FlowSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.vecchia.independent import Independent
from apsgeo.measurement import Measurement
from apsgeo.metrics.table import Row
from apsgeo.plotting.maps import save_figure
from apsgeo.posterior import Posterior
from benchmarks.images.cases import CASES, ImageCase
from benchmarks.images.figure import Panels, draw
from benchmarks.images.scores import TABLE, score
from benchmarks.options import Option
from benchmarks.report import ROOT, page, save, save_arrays, write
from benchmarks.tasks import Task
from benchmarks.views import nearest

OPTIONS = {
    "parts": tuple(CASES),
    "threads": 1,
    "images": Option(64, "test images of each data set"),
    "steps": Option(int, "of each flow, instead of the case's own"),
    "priors": Option(ROOT / "build" / "images", "folder; results are kept here, too"),
}
ABOUT = (
    "Test images that no part of training has seen; CRPS, RMSE and diversity are in the units "
    "of the data (relief in km). PSNR in dB and SSIM are of one member and of the mean of all. "
    "Diversity is the mean standard deviation of a pixel over the members. Speckle is the root "
    "mean square error of members where the truth is background: black in all of a 3 x 3 "
    "neighbourhood or, of the relief, in the smoothest tenth of 8 x 8 blocks. Roughness is the "
    "root mean square Laplacian of members over that of the truth: 1 is right. The prior of "
    "Fashion-MNIST is fitted to 4000 training images, and flows learn from the 56 000 others: "
    "first one for pixels anywhere, from whose weights the flow of each task goes on. Training "
    "in seconds of the processor, without that of the first; milliseconds are for all members "
    "of an image. The figures are `docs/figures/images-*.png`."
)
_SHOWN = ("Gaussian posterior", "APS")
_SHOWN_IMAGES, _SHOWN_MEMBERS = 4, 3
_MEASURED = 4  # images that are measured, for each that training draws

Array = NDArray[np.float64]


def measure(
    prior: FieldPrior, case: ImageCase, task: Task, count: int, seed: int
) -> tuple[Tensor, Measurement]:
    """Return the first test images (image, 1, node), and a measurement of them."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.from_numpy(case.test.values[:count].reshape(count, 1, -1))
    return truth, task.measure(prior.domain, truth, generator)


def _square(fields: Tensor, case: ImageCase) -> Array:
    return fields.double().numpy().reshape(*fields.shape[:-2], *case.train.shape[1:])


def run_task(
    case: ImageCase,
    prior: FieldPrior,
    task: Task,
    start: Posterior | None = None,
    checkpoint: Path | None = None,
    *,
    images: int,
    steps: int,
    seed: int,
) -> tuple[list[Row], Panels]:
    """Distill, draw and score; return rows, and the panels of the figure.

    The flow begins with the weights of another, if one is given. A training that was killed goes on
    from its checkpoint.
    """
    family = task.operator, task.noise_std
    posterior, seconds = _distilled(case, prior, task, case.flow, steps, seed, start, checkpoint)
    methods = {"Gaussian posterior": (Posterior.of(prior, prior.anchor, *family), 0.0)}
    if isinstance(base := posterior.flow.base, Independent):
        methods["start of APS"] = Posterior.of(prior, base, *family), 0.0
    methods["APS"] = posterior, seconds
    return _scored(case, prior, task, methods, images, seed)


def run_ablation(
    case: ImageCase,
    prior: FieldPrior,
    task: Task,
    checkpoint: Path | None = None,
    *,
    images: int,
    steps: int,
    seed: int,
) -> tuple[list[Row], Panels]:
    """Distill the other architecture, draw and score; return its row."""
    assert case.ablation is not None
    made = _distilled(case, prior, task, case.ablation, steps, seed, checkpoint=checkpoint)
    return _scored(case, prior, task, {"APS, one scale": made}, images, seed)


def _scored(
    case: ImageCase,
    prior: FieldPrior,
    task: Task,
    methods: Mapping[str, tuple[Posterior, float]],
    images: int,
    seed: int,
) -> tuple[list[Row], Panels]:
    """Return the rows of methods, each with the seconds of its training, and panels of some."""
    true, given = measure(prior, case, task, images, seed + 1)
    truth, rows = _square(true, case), []
    measured_on = task.operator.on(prior.domain).codomain or prior.domain
    seen = torch.where(given.mask, given.values, torch.nan)[:_SHOWN_IMAGES]
    panels = {
        "truth": truth[:_SHOWN_IMAGES],
        "measured": _square(seen[..., nearest(prior.domain, measured_on)], case),
    }
    for name, (method, seconds) in methods.items():
        begun = time.perf_counter()
        members = _square(method.posterior(given).members(case.members, seed + 2), case)
        taken = 1e3 * (time.perf_counter() - begun) / images
        made = {"train_seconds": seconds, "sample_ms": taken}
        rows.append(score(case, task.name, name, members, truth, **made))
        print(rows[-1], flush=True)
        if name not in _SHOWN:
            continue
        few = members[:, :_SHOWN_IMAGES]
        title = textwrap.fill(name, 16)
        panels |= {f"{title}\nmember {k + 1}": few[k].copy() for k in range(_SHOWN_MEMBERS)}
        panels[f"{title}\nmean"] = few.mean(0)
    return rows, panels


def _distilled(
    case: ImageCase,
    prior: FieldPrior,
    task: Task,
    spec: FlowSpec,
    steps: int,
    seed: int,
    start: Posterior | None = None,
    checkpoint: Path | None = None,
) -> tuple[Posterior, float]:
    """Train a flow; return it, and the seconds of the processor that it took.

    Four times as many images are measured as training draws, or all that there are.
    """
    begun = time.process_time()
    unseen = case.train[case.fitted :][: _MEASURED * steps * case.batch + case.held_out]
    if len(unseen):
        prior = replace(prior, held_out_from=len(unseen) - case.held_out)
    posterior = apsgeo.distill(
        prior,
        task.operator,
        task.noise_std,
        history=unseen if len(unseen) else case.train,
        objective="forward",
        spec=spec,
        start=start,
        score_scales=case.score_scales if spec is case.flow else 1,
        folds=1 if len(unseen) else 4,
        training=apsgeo.Training(
            steps=steps,
            batch=case.batch,
            lr=case.lr,
            ema_decay=0.99,
            validate_every=max(1, steps // 4),
            checkpoint=checkpoint,
        ),
        rounds=case.rounds,
        seed=seed,
    )
    return posterior, time.process_time() - begun


def kept(path: Path, make: Callable[[], tuple[list[Row], Panels]]) -> tuple[list[Row], Panels]:
    """Return the results that an earlier run kept at a path, or make and keep them.

    Args:
        path: Path without a suffix; rows are kept there as JSON, pictures as npz.
        make: Function that does the work.
    """
    rows_path, pictures_path = path.with_suffix(".json"), path.with_suffix(".npz")
    if not rows_path.exists():
        rows, panels = make()
        save_arrays(pictures_path, **panels)
        write(rows_path, json.dumps(rows))
        return rows, panels
    with np.load(pictures_path) as file:
        return json.loads(rows_path.read_text("utf-8")), {name: file[name] for name in file.files}


def _run(path: Path) -> Path:
    """Return the folder of the checkpoint of the training behind a path."""
    return path.with_name(f"{path.name}-run")


def _fitted(case: ImageCase, folder: Path) -> FieldPrior:
    """Fit the prior, or take up that of an earlier run."""
    if not folder.exists():
        anchor = HybridScales.start(apsgeo.domain_of(case.train)) if case.large else None
        prior = apsgeo.fit_prior(
            case.train[: case.fitted],
            training=apsgeo.Training(steps=0),
            rank=case.rank,
            anchor_scales=anchor,
            held_out_from=case.fitted - case.held_out,
        )
        prior.save(folder)
    return FieldPrior.load(folder)


def _first(case: ImageCase, prior: FieldPrior, folder: Path, seed: int) -> Posterior | None:
    """Train the flow that others begin with, or take up that of an earlier run."""
    if case.first is None:
        return None
    if not folder.exists():
        steps = case.first_steps
        posterior, seconds = _distilled(
            case,
            prior,
            case.first,
            case.flow,
            steps,
            seed,
            checkpoint=_run(folder),
        )
        print(f"{case.first.name}: trained in {seconds:.0f} s of the processor", flush=True)
        write(folder.with_suffix(".json"), json.dumps(seconds))
        posterior.save(folder)
    return Posterior.load(folder)


def run(options: argparse.Namespace, made: str) -> None:
    """Run all tasks, and write a table and a figure of each data set."""
    for name in options.parts:
        case, rows = CASES[name](), list[Row]()
        written = options.output / "images" / name
        prior = _fitted(case, options.priors / name)
        start = _first(case, prior, options.priors / f"{name}-first", options.seed)
        panels = {}
        for task in case.tasks:
            steps = case.steps if options.steps is None else options.steps
            images = min(options.images, case.most_images)
            path = options.priors / f"{name}-{task.operator.kind}-{steps}-{images}-{options.seed}"
            settings = {"images": images, "steps": steps, "seed": options.seed}
            work = partial(run_task, case, prior, task, start, _run(path), **settings)
            found, panels[task.name] = kept(path, work)
            rows += found
            save(written, rows, page("Images", ABOUT, TABLE.markdown(rows), made))
        for task in case.ablated:
            settings = {"images": images, "steps": case.ablation_steps, "seed": options.seed}
            path = options.priors / f"{name}-{task.operator.kind}-one-scale-{images}-{options.seed}"
            work = partial(run_ablation, case, prior, task, _run(path), **settings)
            rows += kept(path, work)[0]
            save(written, rows, page("Images", ABOUT, TABLE.markdown(rows), made))
        figure = draw(panels, case)
        save_figure(figure, options.figures / f"images-{name}.png", overwrite=True)
