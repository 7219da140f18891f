"""Every rival on protocol NCEP: monthly air temperature, at the protocol's densities.

python -m benchmarks climate    writes benchmarks/results/rivals/climate.* and two figures

The shipped models, all Gaussian priors, interpolators, and iterative samplers of one diffusion
prior on the hybrid; see `apsgeo/protocol.py`. Learned rivals have the pairs of a flow, and are left
out if they are trained for no steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apsgeo import datasets
from apsgeo.baselines import SAMPLERS
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.distillation.distill import distill
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.build import CouplingSpec, GeneratorSpec
from apsgeo.flows.spec import FlowSpec
from apsgeo.measurement import Method
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.protocol import DENSITIES, NOISE_STD, NcepProtocol, compared_methods
from benchmarks.ncep.suite import diffusion_prior, posterior
from benchmarks.options import Option
from benchmarks.report import write
from benchmarks.rivals.contest import Case, Contest
from benchmarks.rivals.report import OPTIONS as SHARED
from benchmarks.rivals.report import contend

OPTIONS: dict[str, Any] = {
    **SHARED,
    "every": Option(6, "take every N-th test month"),
    "densities": Option(DENSITIES, "observed shares of the area"),
    "iterative_months": Option(1, "of these for iterative samplers"),
    "iterative_members": Option(8, "size of their ensembles"),
    "steps": Option(100, "of iterative samplers"),
    "prior_steps": Option(150, "training steps of their denoiser; 0 leaves them out"),
    "learned_steps": Option(0, "training steps of learned rivals; 0 leaves them out"),
}
LEARNED: dict[str, tuple[FlowSpec, int]] = {
    "U-Net mean and spread": (CouplingSpec(base="independent"), 1),
    "generator by CRPS": (GeneratorSpec(width=16), 5),
}
"""Learned rivals by their names in tables, and the number of scales they are scored on."""
APS, PAPER = "ncep-air", "ncep-air-paper"


def _file(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "-")


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Train the denoiser and the learned rivals, if they are not there."""
    if not (folder / "eofs.json").exists():
        protocol = NcepProtocol(datasets.load("ncep-air"), seed=options.seed)
        chosen = protocol.eof_interpolation().loadings.shape[-1]
        write(folder / "eofs.json", json.dumps(chosen))
    if options.prior_steps:
        diffusion_prior(folder / "prior", options.prior_steps, options.seed)
    for name, (spec, scales) in LEARNED.items() if options.learned_steps else ():
        path = _file(folder, name)
        if path.exists():
            continue
        prior = FieldPrior.load(folder / "prior")
        begun = time.process_time()
        distill(
            prior,
            Mask(),
            NOISE_STD,
            history=datasets.load("ncep-air").sel(time=slice("1972", "2009")),
            spec=spec,
            score_scales=scales,
            rounds=1,
            seed=options.seed,
            training=Training(steps=options.learned_steps, batch=8),
        ).save(path)
        write(path.with_suffix(".json"), json.dumps(time.process_time() - begun))


def _denoiser(folder: Path) -> DiffusionPrior | None:
    if not (folder / "prior").exists():
        return None
    prior = FieldPrior.load(folder / "prior")
    return None if prior.diffusion is None else prior.denoiser


def opened(settings: Mapping[str, Any], folder: Path) -> Contest:
    """Open the contest of a folder of models."""
    protocol = NcepProtocol(datasets.load("ncep-air"), seed=settings["seed"])
    months = protocol.test[:: settings["every"]]
    truth = torch.from_numpy(protocol.truth(months))[:, None]
    view = np.arange(truth[0].numel()).reshape(len(protocol.field["lat"]), -1)
    cases = []
    for density in settings["densities"]:
        given = protocol.observe(months, density)
        weights = protocol.score_weights(given)
        cases.append(Case(f"{100 * density:g} %", truth, given, weights, view))
    found = compared_methods(
        protocol,
        posterior(APS),
        posterior(PAPER),
        _denoiser(folder),
        eof_ranks=(json.loads((folder / "eofs.json").read_text()),),
        progress=False,
    )
    methods: dict[str, Method] = {}
    for name, method in found.items():
        if name in SAMPLERS:
            assert isinstance(method, Posterior)
            inner = replace(method.method, steps=settings["steps"])  # type: ignore[type-var]
            methods[name] = replace(method, method=inner)
        else:
            methods["APS" if name == "APS, anchored" else name] = method
    seconds = {}
    for name in LEARNED:
        if _file(folder, name).exists():
            methods[name] = Posterior.load(_file(folder, name))
            seconds[name] = json.loads(_file(folder, name).with_suffix(".json").read_text())
    few = dict.fromkeys(SAMPLERS, settings["iterative_months"])
    members = dict.fromkeys(SAMPLERS, settings["iterative_members"])
    return Contest(cases, methods, few, members, seconds)


def run(options: argparse.Namespace, made: str) -> None:
    """Run the contest."""
    names = ("seed", "every", "densities", "iterative_months", "iterative_members", "steps")
    settings = {name: getattr(options, name) for name in names}
    months = len(np.arange(0, 194, options.every))
    about = (
        f"Every {options.every}th test month from 2010 on ({months} of them), noise {NOISE_STD} K, "
        "scores in K over unobserved cells weighted by cos(latitude); see `apsgeo/protocol.py`. "
        "APS and its paper's form are the shipped models; no method is given neighbouring months. "
    )
    if options.prior_steps:
        about += (
            f"Iterative samplers take {options.steps} steps, have {options.iterative_months} month "
            f"and {options.iterative_members} members, and a denoiser on the hybrid prior that was "
            f"trained for {options.prior_steps} steps."
        )
    else:
        about += "Iterative samplers are left out."
    contend(
        "climate",
        "Every rival under protocol NCEP",
        about,
        partial(prepare, options),
        opened,
        settings,
        options,
        made,
    )
