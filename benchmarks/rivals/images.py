"""Every rival on 32 × 32 images of clothes: few pixels, and coarse ones.

python -m benchmarks rivals-images     writes benchmarks/results/rivals/images.* and two figures

Fashion-MNIST, test images that nobody has learned from. Iterative samplers have the very denoiser
that the prior has; learned rivals are trained on the pairs that the flow is trained on, for as many
steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any

import numpy as np
import torch
import xarray as xr

import apsgeo
from apsgeo.baselines import METHODS, SAMPLERS
from apsgeo.distillation.distill import distill
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.build import CouplingSpec, GeneratorSpec, MultiscaleSpec
from apsgeo.flows.spec import FlowSpec
from apsgeo.gaussian.scales import HybridScales, LocalisedScales
from apsgeo.measurement import Method
from apsgeo.operators import Downsample, Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from benchmarks.images.cases import fashion
from benchmarks.options import Option
from benchmarks.report import write
from benchmarks.rivals.contest import ByCase, Case, Contest
from benchmarks.rivals.report import OPTIONS as SHARED
from benchmarks.rivals.report import contend
from benchmarks.tasks import Task

FITTED, LEARNED = 1500, 1500
"""Training images that the prior is fitted to, and those after them that networks learn from."""


def _settings(spec: FlowSpec, **more: Any) -> dict[str, Any]:
    return {"spec": spec, "objective": "score", **more}


APS = "APS"
NETWORKS: dict[str, dict[str, Any]] = {
    "U-Net mean and spread": _settings(CouplingSpec(base="independent", width=24, depth=3)),
    "generator by CRPS": _settings(GeneratorSpec(width=24, depth=3), score_scales=5),
    APS: {"spec": MultiscaleSpec(), "objective": "forward", "score_scales": 5},
}
"""Networks by their names in tables, and how each is trained."""


TASKS = {
    "pixels": Task("5 % of pixels", Mask(), 0.05, density=0.05),
    "coarse": Task("super-resolution × 4", Downsample(4), 0.02),
}
OPTIONS: dict[str, Any] = {
    **SHARED,
    "parts": tuple(TASKS),
    "networks": Option(tuple(NETWORKS), "learned methods that take part", tuple(NETWORKS)),
    "images": Option(16, "test images"),
    "iterative_images": Option(4, "of these for iterative samplers"),
    "iterative_members": Option(16, "size of their ensembles"),
    "steps": Option(100, "of iterative samplers"),
    "prior_steps": Option(400, "training steps of the denoiser"),
    "flow_steps": Option(150, "training steps of the flow, and of each learned rival"),
    "flow": Option("", "folder of a trained flow of pixels, by the suite images, for APS"),
}


def images(seed: int) -> tuple[xr.DataArray, xr.DataArray]:
    """Return training and test images."""
    case = fashion(FITTED + LEARNED, seed)
    return case.train, case.test


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Fit the prior and train the networks, if they are not there; each is kept when it is done."""
    train, _ = images(options.seed)
    if not (folder / "prior").exists():
        training = Training(steps=options.prior_steps, batch=16)
        apsgeo.fit_prior(
            train[:FITTED],
            scales=HybridScales(),
            anchor_scales=LocalisedScales.start(apsgeo.domain_of(train)),
            rank=300,
            training=training,
            seed=options.seed,
        ).save(folder / "prior")
    prior = FieldPrior.load(folder / "prior")
    for part in options.parts:
        task = TASKS[part]
        for name in options.networks:
            path = folder / f"{task.operator.kind}-{name.replace(' ', '-')}"
            if path.exists():
                continue
            if name == APS and part == "pixels" and options.flow:
                copytree(options.flow, path)
                copyfile(Path(options.flow).with_suffix(".json"), path.with_suffix(".json"))
                continue
            begun = time.process_time()
            distill(
                prior,
                task.operator,
                task.noise_std,
                history=train[FITTED:],
                folds=1,
                rounds=1,
                seed=options.seed,
                training=Training(steps=options.flow_steps, batch=16, lr=2e-3),
                **NETWORKS[name],
            ).save(path)
            seconds = time.process_time() - begun
            write(path.with_suffix(".json"), json.dumps(seconds))
            print(f"{task.name}, {name}: trained in {seconds:.0f} s of the processor", flush=True)


def opened(settings: Mapping[str, Any], folder: Path) -> Contest:
    """Open the contest of a folder of models."""
    prior = FieldPrior.load(folder / "prior")
    _, test = images(settings["seed"])
    count = settings["images"]
    truth = torch.from_numpy(test.values[:count].reshape(count, 1, -1))
    cases, seconds = [], {}
    methods: dict[str, Method] = {}
    tasks = [TASKS[part] for part in settings["parts"]]
    for task in tasks:
        generator = torch.Generator().manual_seed(settings["seed"] + 1)
        given = task.measure(prior.domain, truth, generator, key=torch.arange(count))
        cases.append(Case(task.name, truth, given, np.ones((count, 1024)), (32, 32), 1.0))
    for name, make in METHODS.items():
        if name == "kriging":  # which is fitted to the history
            continue
        method = make(prior)
        if name in SAMPLERS:
            method = replace(method, steps=settings["steps"])  # type: ignore[type-var]
        methods[name] = Posterior.of(prior, method, Mask(), tasks[0].noise_std)
    for name in settings["networks"]:
        networks: dict[int, Method] = {}
        for task in tasks:
            path = folder / f"{task.operator.kind}-{name.replace(' ', '-')}"
            network = Posterior.load(path)
            networks[network.linear.num_observations] = network
            seconds[name] = json.loads(path.with_suffix(".json").read_text())
        methods[name] = ByCase(networks, name)
    few = dict.fromkeys(SAMPLERS, settings["iterative_images"])
    fewer = dict.fromkeys(SAMPLERS, settings["iterative_members"])
    return Contest(cases, methods, few, fewer, seconds)


def run(options: argparse.Namespace, made: str) -> None:
    """Run the contest."""
    names = (
        "seed",
        "parts",
        "networks",
        "images",
        "iterative_images",
        "iterative_members",
        "steps",
    )
    settings = {name: getattr(options, name) for name in names}
    about = (
        f"Fashion-MNIST padded to 32 × 32, {options.images} test images; all pixels are scored, in "
        f"units of the range. Iterative samplers have {options.iterative_images} of the images, "
        f"{options.iterative_members} members and {options.steps} steps. The prior is fitted to "
        f"{FITTED} images, with scales as they come and not searched, its denoiser trained for "
        f"{options.prior_steps} steps. The flow and its learned rivals are trained for "
        f"{options.flow_steps} steps of 16 pairs of {LEARNED} other images, for each task: a small "
        "budget, the same for all."
    )
    if options.flow:
        about += (
            " APS on pixels is another flow: that from which all tasks of `python -m benchmarks "
            "images` begin, trained for pixels anywhere, on other images of the training set."
        )
    contend(
        "images",
        "Every rival on images",
        about,
        partial(prepare, options),
        opened,
        settings,
        options,
        made,
    )
