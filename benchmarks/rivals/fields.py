"""A contest on the fields of one data set: its models are made once, and kept in a folder.

Iterative samplers have the very denoiser that the prior has; learned rivals are trained on the
pairs that the flow is trained on, for as many steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

import apsgeo
from apsgeo.baselines import METHODS, SAMPLERS
from apsgeo.distillation.distill import distill
from apsgeo.domains import Domain
from apsgeo.field_prior import FieldPrior
from apsgeo.measurement import Method
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from benchmarks.options import Option
from benchmarks.report import write
from benchmarks.rivals.contest import ByCase, Case, Contest
from benchmarks.rivals.report import OPTIONS as SHARED
from benchmarks.rivals.report import contend
from benchmarks.tasks import Task
from benchmarks.views import Index

__all__ = ["APS", "START", "FieldSuite", "Fields", "Gaussian", "options_of", "run_suite"]

APS, START = "APS", "APS, untrained"
_BATCH, _FOLDS = 16, 4
_START_RECORDS = 100  # of a history, of which nothing is learned but the spread


@dataclass(frozen=True)
class Fields:
    """Fields of one data set, on one domain.

    Attributes:
        domain: Domain of the fields.
        view: Node at each pixel of a picture, -1 where there is none.
        fitted: Fields (record, ...) that the prior is fitted to.
        learned: Fields that flows learn from: others, or the same ones, cross-fitted.
        test: Fields to be tried on, of which the first are taken.
    """

    domain: Domain
    view: Index
    fitted: xr.DataArray
    learned: xr.DataArray
    test: xr.DataArray


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian row of its own, fitted to the same fields or to a function of them.

    Attributes:
        prior: Options of `apsgeo.fit_prior` that differ.
        method: Function that makes the method of that prior.
        encode: Function of fields to learn from that gives those of the prior.
        wrap: Function of the posterior that makes of it a method of the data.
    """

    prior: Mapping[str, Any]
    method: Callable[[FieldPrior], Method]
    encode: Callable[[xr.DataArray], xr.DataArray] = lambda fields: fields
    wrap: Callable[[Posterior], Method] = lambda posterior: posterior


@dataclass(frozen=True)
class FieldSuite:
    """A data set, what is measured of it, and how its models are trained.

    Attributes:
        title: Title of the page.
        about: The data set and what is scored, in sentences.
        fields: Function of the seed that opens the data.
        tasks: Ways of measuring, by the names of the option ``parts``.
        prior: Options of `apsgeo.fit_prior`.
        networks: Learned methods by their names, with options of `apsgeo.distill`.
        defaults: Defaults of options that differ from those of all.
        gaussians: Gaussian rows beside those of all suites, by their names.
        data_range: Range of PSNR and SSIM, if pictures are compared.
        anomalies: Whether pictures are without the normals.
        colours: Colour map of pictures.
    """

    title: str
    about: str
    fields: Callable[[int], Fields]
    tasks: Mapping[str, Task]
    prior: Mapping[str, Any]
    networks: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, int] = field(default_factory=dict)
    gaussians: Mapping[str, Gaussian] = field(default_factory=dict)
    data_range: float | None = None
    anomalies: bool = False
    colours: str = "RdBu_r"


_STEPS = {
    "fields": Option(16, "test fields"),
    "iterative_fields": Option(2, "of these for iterative samplers"),
    "iterative_members": Option(8, "size of their ensembles"),
    "steps": Option(100, "of iterative samplers"),
    "prior_steps": Option(1000, "training steps of the denoiser; 0 leaves iterative samplers out"),
    "flow_steps": Option(500, "training steps of the flow, and of each learned rival"),
}
_ROWS = ("seed", "parts", "networks", "fields", "iterative_fields", "iterative_members", "steps")
"""Options that rows depend on, beside the models and the number of members."""


def options_of(suite: FieldSuite) -> dict[str, Any]:
    """Return the options of a suite's command line."""
    counts = {
        name: replace(each, default=suite.defaults.get(name, each.default))
        for name, each in _STEPS.items()
    }
    several = Option(tuple(suite.networks), "learned methods", tuple(suite.networks))
    return {**SHARED, "parts": tuple(suite.tasks), "networks": several, **counts}


def _file(folder: Path, task: Task, name: str) -> Path:
    return folder / f"{task.operator.kind}-{name.replace(' ', '-').replace(',', '')}"


def _fit(fields: xr.DataArray, domain: Domain, folder: Path, steps: int, **options: Any) -> None:
    if not folder.exists():
        training = Training(steps=steps, batch=_BATCH)
        apsgeo.fit_prior(fields, domain, training=training, **options).save(folder)


def _held_out(prior: FieldPrior, count: int) -> FieldPrior:
    """Return the prior with the last tenth of `count` records held out, if they have no dates."""
    if not isinstance(prior.held_out_from, int):
        return prior
    return replace(prior, held_out_from=count * 9 // 10)


def prepare(suite: FieldSuite, options: argparse.Namespace, folder: Path) -> None:
    """Fit the priors and train the networks, if they are not there; each is kept when done."""
    fields, seed = suite.fields(options.seed), options.seed
    known = {**suite.prior, "seed": seed}
    _fit(fields.fitted, fields.domain, folder / "prior", options.prior_steps, **known)
    for name, gaussian in suite.gaussians.items():
        own = {**known, **gaussian.prior}
        _fit(gaussian.encode(fields.fitted), fields.domain, folder / f"prior-{name}", 0, **own)
    prior = FieldPrior.load(folder / "prior")
    for task in (suite.tasks[part] for part in options.parts):
        for name in options.networks:
            path = _file(folder, task, name)
            if path.exists():
                continue
            if name == APS and getattr(options, "flow", "") and task.operator == Mask():
                copytree(options.flow, path)
                copyfile(Path(options.flow).with_suffix(".json"), path.with_suffix(".json"))
                continue
            steps = 0 if name == START else options.flow_steps
            learned = fields.learned if steps else fields.learned[-_START_RECORDS:]
            again = fields.learned is fields.fitted and steps
            settings: dict[str, Any] = {"rounds": 1, "folds": _FOLDS if again else 1}
            begun = time.process_time()
            distill(
                _held_out(prior, len(learned)),
                task.operator,
                task.noise_std,
                history=learned,
                seed=seed,
                **{**settings, **suite.networks[name]},
                training=Training(steps=steps, batch=_BATCH, lr=2e-3),
            ).save(path)
            seconds = time.process_time() - begun
            write(path.with_suffix(".json"), json.dumps(seconds if steps else 0.0))
            print(f"{task.name}, {name}: trained in {seconds:.0f} s of the processor", flush=True)


def _cases(suite: FieldSuite, settings: Mapping[str, Any], prior: FieldPrior) -> Iterator[Case]:
    """Yield the ways of measuring the first test fields."""
    fields = suite.fields(settings["seed"])
    test = fields.test[: settings["fields"]]
    count, valid = len(test), prior.normals.valid
    truth = torch.from_numpy(test.values.reshape(count, 1, -1)).nan_to_num()
    season = prior.season_of(test)
    normal: NDArray[np.float64] | None = None
    if suite.anomalies:
        normal = prior.normals.mean[season, 0].double().numpy()
    for task in (suite.tasks[part] for part in settings["parts"]):
        generator = torch.Generator().manual_seed(settings["seed"] + 1)
        given = task.measure(
            fields.domain, truth, generator, season=season, key=torch.arange(count)
        )
        if given.operator.is_identity:
            given = replace(given, mask=given.mask & valid)
        weights = fields.domain.areas * valid.expand_as(truth)
        if task.hidden_only:
            weights = weights * given.hidden
        yield Case(
            task.name,
            truth,
            given,
            weights.flatten(1).double().numpy(),
            fields.view,
            suite.data_range,
            normal,
            suite.colours,
        )


def opened(suite: FieldSuite, settings: Mapping[str, Any], folder: Path) -> Contest:
    """Open the contest of a folder of models."""
    prior = FieldPrior.load(folder / "prior")
    tasks = [suite.tasks[part] for part in settings["parts"]]
    noise_std = tasks[0].noise_std
    methods: dict[str, Method] = {}
    for name, gaussian in suite.gaussians.items():
        own = FieldPrior.load(folder / f"prior-{name}")
        posterior = Posterior.of(own, gaussian.method(own), Mask(), noise_std)
        methods[name] = gaussian.wrap(posterior)
    for name, make in METHODS.items():
        if name == "kriging":  # which is fitted to the history
            continue
        if name in SAMPLERS and prior.diffusion is None:
            continue
        method = make(prior)
        if name in SAMPLERS:
            method = replace(method, steps=settings["steps"])  # type: ignore[type-var]
        methods[name] = Posterior.of(prior, method, Mask(), noise_std)
    seconds = {}
    for name in settings["networks"]:
        networks: dict[int, Method] = {}
        for task in tasks:
            path = _file(folder, task, name)
            network = Posterior.load(path)
            networks[network.linear.num_observations] = network
            seconds[name] = json.loads(path.with_suffix(".json").read_text())
        methods[name] = ByCase(networks, name)
    few = dict.fromkeys(SAMPLERS, settings["iterative_fields"])
    fewer = dict.fromkeys(SAMPLERS, settings["iterative_members"])
    cases = list(_cases(suite, settings, prior))
    return Contest(cases, methods, few, fewer, seconds)


def run_suite(name: str, suite: FieldSuite, options: argparse.Namespace, made: str) -> None:
    """Run the contest of a suite.

    Args:
        name: Name of the suite, and of its files.
        suite: The suite.
        options: Options of the command line.
        made: How the page was made.
    """
    settings = {each: getattr(options, each) for each in _ROWS}
    settings |= {each: getattr(options, each) for each in ("prior_steps", "flow_steps")}
    about = f"{suite.about} There are {options.fields} test fields. "
    if options.prior_steps:
        about += (
            f"Iterative samplers have {options.iterative_fields} of them, "
            f"{options.iterative_members} members and {options.steps} steps: a thousand are not "
            f"affordable here. Their denoiser was trained for {options.prior_steps} steps. "
        )
    else:
        about += "Iterative samplers are left out. "
    about += (
        f"Flows and learned rivals are trained for {options.flow_steps} steps of {_BATCH} pairs; "
        f"`{START}` is where the flow starts."
    )
    if getattr(options, "flow", ""):
        about += (
            " APS on pixels is another flow: that from which all tasks of `python -m benchmarks "
            "images` begin, trained for pixels anywhere, on other images of the training set."
        )
    contend(
        name,
        suite.title,
        about,
        partial(prepare, suite, options),
        partial(opened, suite),
        settings,
        options,
        made,
    )
