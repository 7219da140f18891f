"""Denoise, fill, sharpen and refine images, and look for noise where none belongs.

python -m benchmarks.images.suite                    writes benchmarks/results/images.*, docs/figures/images-*.png
python -m benchmarks.images.suite --cases fashion    one data set

For each data set a prior is fitted to its training images, and for each task a flow is distilled
from it, by maximum likelihood and CRPS on simulated measurements of the training images. It is
compared with the flow's own base, the exact posterior of the Gaussian prior. Priors and what was
found of each task are kept in build/images, from where a run that was stopped goes on; remove it
after changes of the code.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import apsgeo
from apsgeo.atomic import write_csv
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.plotting import save_figure
from benchmarks.domains.suite import sample
from benchmarks.images.cases import CASES, ImageCase, Task
from benchmarks.images.figure import Panels, draw
from benchmarks.images.scores import ImageRow, score
from benchmarks.images.store import kept
from benchmarks.report import FIGURES, RESULTS, commit, provenance, write

__all__ = ["Measured", "main", "measure", "parse", "report", "run_task"]


_SHOWN_IMAGES, _SHOWN_MEMBERS = 4, 3

Array = NDArray[np.float64]
Draws = Callable[["Measured", int, int], Tensor]
"""Return members (member, image, 1, node) of measured images, so many, by a seed."""


@dataclass(frozen=True)
class Measured:
    """Test images (image, 1, node), and what was measured of them: NaN where nothing was."""

    truth: Tensor
    values: Tensor

    @property
    def keys(self) -> Tensor:
        """Return numbers (image,) that members' noise is drawn by."""
        return torch.arange(len(self.truth))


def measure(prior: FieldPrior, case: ImageCase, task: Task, count: int, seed: int) -> Measured:
    """Measure the first test images."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.from_numpy(case.test.values[:count].reshape(count, 1, -1))
    exact = task.operator.on(prior.domain).apply(truth)
    masks = [task.operator.at_density(prior.domain, task.density, generator) for _ in truth]
    noisy = exact + task.noise_std * torch.randn(exact.shape, generator=generator)
    values = torch.where(torch.stack(masks)[:, None], noisy, torch.nan)
    return Measured(truth, values)


def of_base(prior: FieldPrior, task: Task) -> Draws:
    """Return the exact posterior of the Gaussian prior as a method."""
    linear = task.operator.on(prior.domain)

    def draws(given: Measured, members: int, seed: int) -> Tensor:
        season = torch.zeros(len(given.values), dtype=torch.long)
        noise_std = torch.tensor(task.noise_std).expand(given.values.shape)
        measurement = prior.normals.measure(given.values, noise_std, season, linear)
        found = sample(prior.anchor, measurement, season, given.keys, members, seed)
        return prior.normals.restore(found, season)

    return draws


def _square(fields: Tensor, case: ImageCase) -> Array:
    return fields.double().numpy().reshape(*fields.shape[:-2], *case.train.shape[1:])


def run_task(
    case: ImageCase, prior: FieldPrior, task: Task, *, images: int, steps: int, seed: int
) -> tuple[list[ImageRow], Panels]:
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
    given = measure(prior, case, task, images, seed + 1)

    def of_flow(given: Measured, members: int, seed: int) -> Tensor:
        return posterior(given.values, key=given.keys.numpy()).members(members, seed)

    methods: dict[str, tuple[Draws, float]] = {
        "Gaussian posterior (base)": (of_base(prior, task), 0.0),
        "APS": (of_flow, trained),
    }
    truth, rows, shown = _square(given.truth, case), [], {}
    for name, (draws, seconds) in methods.items():
        begun = time.perf_counter()
        members = _square(draws(given, case.members, seed + 2), case)
        taken = 1e3 * (time.perf_counter() - begun) / images
        made = {"train_seconds": seconds, "sample_ms": taken}
        rows.append(score(case, task.name, name, members, truth, **made))
        print(rows[-1], flush=True)
        few = members[:, :_SHOWN_IMAGES]
        shown[name] = np.concatenate([few[:_SHOWN_MEMBERS], few.mean(0)[None]])
    linear = task.operator.on(prior.domain)
    measured_on = linear.codomain or prior.domain
    values = given.values[:_SHOWN_IMAGES, 0].double().numpy()
    panels = Panels(task.name, truth[:_SHOWN_IMAGES], values, measured_on, prior.domain, shown)
    return rows, panels


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


def report(rows: list[ImageRow], made_with: str) -> str:
    """Return the table, with what is needed to make it again."""
    body = "\n".join(
        f"| {r.case} | {r.task} | {r.method} | {r.crps:.4g} | {r.rmse:.4g} | {r.spread_skill:.2f} "
        f"| {r.coverage90:.1%} | {r.psnr_one:.2f} | {r.psnr_mean:.2f} | {r.ssim_one:.3f} "
        f"| {r.ssim_mean:.3f} | {r.diversity:.4g} | {r.speckle:.3g} | {r.roughness:.2f} "
        f"| {r.train_seconds:.0f} | {r.sample_ms:.0f} |"
        for r in rows
    )
    return (
        "# Images\n\n"
        "Test images that no part of training has seen; CRPS, RMSE and diversity are in the units "
        "of the data (relief in km). PSNR in dB and SSIM are of one member and of the mean of all. "
        "Diversity is the mean standard deviation of a pixel over the members. Speckle is the root "
        "mean square error of members where the truth is background: black in all of a 3 x 3 "
        "neighbourhood or, of the relief, in the smoothest tenth of 8 x 8 blocks. Roughness is the "
        "root mean square Laplacian of members over that of the truth: 1 is right. Training in "
        "seconds of the processor; milliseconds are for all members of an image. The figures are "
        "`docs/figures/images-*.png`.\n\n"
        "| images | task | method | CRPS | RMSE | spread/skill | 90 % coverage | PSNR, one "
        "| PSNR, mean | SSIM, one | SSIM, mean | diversity | speckle | roughness | training, s "
        "| members, ms |\n| --- | --- | --- |" + " ---: |" * 13 + f"\n{body}\n\n{made_with}"
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images.suite")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--images", type=int, default=64, help="test images of each data set")
    parser.add_argument("--steps", type=int, help="of each flow, instead of the case's own")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--priors", type=Path, default=Path("build/images"), help="and results are kept here"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the table")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder")
    return parser.parse_args(arguments)


def main() -> None:
    """Run all tasks, and write the table and figures."""
    arguments = sys.argv[1:]
    options = parse(arguments)
    made_with = provenance("benchmarks.images.suite", arguments, options.seed, commit())
    torch.set_num_threads(options.threads)
    rows: list[ImageRow] = []
    for name in options.cases:
        case = CASES[name]()
        prior = _fitted(case, options.priors / name)
        panels = []
        for task in case.tasks:
            steps = case.steps if options.steps is None else options.steps
            images = min(options.images, case.most_images)
            path = options.priors / f"{name}-{task.operator.kind}-{steps}-{images}-{options.seed}"
            work = partial(
                run_task, case, prior, task, images=images, steps=steps, seed=options.seed
            )
            found, shown = kept(path, prior, task, work)
            rows += found
            panels.append(shown)
            write_csv(options.output / "images.csv", [asdict(row) for row in rows])
            write(options.output / "images.md", report(rows, made_with))
        figure = draw(panels, case)
        save_figure(figure, options.figures / f"images-{name}.png", overwrite=True)


if __name__ == "__main__":
    main()
