"""Denoise, fill, sharpen and refine images, and look for noise where none belongs.

python -m benchmarks images                    writes benchmarks/results/images.* and figures
python -m benchmarks images --parts fashion    one data set

For each data set a prior is fitted to its training images, and for each task a flow is distilled
from it, by maximum likelihood and CRPS on simulated measurements of the training images. It is
compared with the flow's own base, the exact posterior of the Gaussian prior. Priors and what was
found of each task are kept in build/images, from where a run that was stopped goes on; remove it
after changes of the code.
"""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import apsgeo
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Measurement
from apsgeo.metrics.table import Row
from apsgeo.plotting import save_figure
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
    "root mean square Laplacian of members over that of the truth: 1 is right. Training in "
    "seconds of the processor; milliseconds are for all members of an image. The figures are "
    "`docs/figures/images-*.png`."
)
_SHOWN_IMAGES, _SHOWN_MEMBERS = 4, 3

Array = NDArray[np.float64]


def measure(
    prior: FieldPrior, case: ImageCase, task: Task, count: int, seed: int
) -> tuple[Tensor, Measurement]:
    """Return the first test images (image, 1, node), and what is measured of them."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.from_numpy(case.test.values[:count].reshape(count, 1, -1))
    return truth, task.measure(prior.domain, truth, generator)


def _square(fields: Tensor, case: ImageCase) -> Array:
    return fields.double().numpy().reshape(*fields.shape[:-2], *case.train.shape[1:])


def run_task(
    case: ImageCase, prior: FieldPrior, task: Task, *, images: int, steps: int, seed: int
) -> tuple[list[Row], Panels]:
    """Distill, draw and score; also return what the figure shows."""
    start = time.process_time()
    posterior = apsgeo.distill(
        prior,
        task.operator,
        task.noise_std,
        history=case.train,
        objective="forward",
        spec=case.flow,
        training=apsgeo.Training(steps=steps, batch=case.batch, lr=case.lr),
        rounds=case.rounds,
        seed=seed,
    )
    trained = time.process_time() - start
    true, given = measure(prior, case, task, images, seed + 1)
    base = Posterior.of(prior, prior.anchor, task.operator, task.noise_std)

    methods = {"Gaussian posterior (base)": (base, 0.0), "APS": (posterior, trained)}
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
        few = members[:, :_SHOWN_IMAGES]
        title = textwrap.fill(name, 16)
        panels |= {f"{title}\nmember {k + 1}": few[k].copy() for k in range(_SHOWN_MEMBERS)}
        panels[f"{title}\nmean"] = few.mean(0)
    return rows, panels


def kept(path: Path, make: Callable[[], tuple[list[Row], Panels]]) -> tuple[list[Row], Panels]:
    """Return what an earlier run kept at a path, or what `make` finds, and keep that.

    Args:
        path: Without a suffix: rows are beside it as JSON, pictures as npz.
        make: Does the work.
    """
    rows_path, pictures_path = path.with_suffix(".json"), path.with_suffix(".npz")
    if not rows_path.exists():
        rows, panels = make()
        save_arrays(pictures_path, **panels)
        write(rows_path, json.dumps(rows))
        return rows, panels
    with np.load(pictures_path) as file:
        return json.loads(rows_path.read_text("utf-8")), {name: file[name] for name in file.files}


def _fitted(case: ImageCase, folder: Path) -> FieldPrior:
    """Fit the prior, or take up that of an earlier run."""
    if not folder.exists():
        anchor = HybridScales.start(apsgeo.domain_of(case.train)) if case.large else None
        prior = apsgeo.fit_prior(
            case.train,
            training=apsgeo.Training(steps=0),
            rank=case.rank,
            anchor_scales=anchor,
            held_out_from=len(case.train) - case.held_out,
        )
        prior.save(folder)
    return FieldPrior.load(folder)


def run(options: argparse.Namespace, made: str) -> None:
    """Run all tasks, and write the table and figures."""
    rows: list[Row] = []
    for name in options.parts:
        case = CASES[name]()
        prior = _fitted(case, options.priors / name)
        panels = {}
        for task in case.tasks:
            steps = case.steps if options.steps is None else options.steps
            images = min(options.images, case.most_images)
            path = options.priors / f"{name}-{task.operator.kind}-{steps}-{images}-{options.seed}"
            work = partial(
                run_task, case, prior, task, images=images, steps=steps, seed=options.seed
            )
            found, panels[task.name] = kept(path, work)
            rows += found
            save(options.output / "images", rows, page("Images", ABOUT, TABLE.markdown(rows), made))
        figure = draw(panels, case)
        save_figure(figure, options.figures / f"images-{name}.png", overwrite=True)
