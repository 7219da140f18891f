"""Every rival on 32 × 32 images of clothes: few pixels, and coarse ones.

python -m benchmarks rivals-images     writes benchmarks/results/rivals/images.* and two figures

Fashion-MNIST, test images that nobody has learned from. Iterative samplers have the very denoiser
that the prior has; learned rivals are trained on the pairs that the flow is trained on, for as many
steps.
"""

from __future__ import annotations

import argparse
from typing import Any

from apsgeo.domains import ImageDomain
from apsgeo.flows.build import CouplingSpec, GeneratorSpec, MultiscaleSpec
from apsgeo.gaussian.scales import HybridScales, LocalisedScales
from apsgeo.operators import Downsample, Mask
from benchmarks.images.cases import fashion
from benchmarks.options import Option
from benchmarks.rivals.fields import APS, START, Fields, FieldSuite, options_of, run_suite
from benchmarks.tasks import Task
from benchmarks.views import picture

FITTED, LEARNED = 1500, 1500
"""Training images that the prior is fitted to, and those after them that networks learn from."""
_DOMAIN = ImageDomain(32, 32)
_MULTISCALE = {"spec": MultiscaleSpec(), "objective": "forward", "score_scales": 5}


def images(seed: int) -> Fields:
    """Open training and test images."""
    case = fashion(FITTED + LEARNED, seed)
    learned, view = case.train[FITTED:], picture(_DOMAIN)
    return Fields(_DOMAIN, view, case.train[:FITTED], learned, case.test)


SUITE = FieldSuite(
    title="Every rival on images",
    about=(
        "Fashion-MNIST padded to 32 × 32; all pixels are scored, in units of the range. The prior "
        f"is fitted to {FITTED} images, with scales as they come and not searched; flows and "
        f"learned rivals learn from {LEARNED} others, each task on its own."
    ),
    fields=images,
    tasks={
        "pixels": Task("5 % of pixels", Mask(), 0.05, density=0.05),
        "coarse": Task("super-resolution × 4", Downsample(4), 0.02),
    },
    prior={
        "scales": HybridScales(),
        "anchor_scales": LocalisedScales.start(_DOMAIN),
        "rank": 300,
    },
    networks={
        "U-Net mean and spread": {"spec": CouplingSpec(base="independent", width=24, depth=3)},
        "generator by CRPS": {"spec": GeneratorSpec(width=24, depth=3), "score_scales": 5},
        START: _MULTISCALE,
        APS: _MULTISCALE,
    },
    defaults={"iterative_fields": 4, "iterative_members": 16, "prior_steps": 400},
    data_range=1.0,
    colours="gray",
)
OPTIONS: dict[str, Any] = {
    **options_of(SUITE),
    "flow": Option("", "folder of a trained flow of pixels, by the suite images, for APS"),
}


def run(options: argparse.Namespace, made: str) -> None:
    """Run the contest."""
    run_suite("images", SUITE, options, made)
