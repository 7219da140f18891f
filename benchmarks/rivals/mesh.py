"""Every rival on digits that are drawn on a mesh, the surface of a bunny.

python -m benchmarks mesh     writes benchmarks/results/rivals/mesh.* and two figures
"""

from __future__ import annotations

import argparse

from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.flows.build import CouplingSpec, GeneratorSpec
from apsgeo.operators import Mask
from benchmarks.rivals.fields import APS, START, Fields, FieldSuite, options_of, run_suite
from benchmarks.tasks import Task
from benchmarks.trained_priors.cases import CASES, FINE, LEAST_STD
from benchmarks.views import along_z

FITTED, LEARNED = 2000, 2000
"""Training digits that the prior is fitted to, and those after them that networks learn from."""
_ROWS = 40  # of pictures: a pixel is about as large as a node
_MASKS = Mask(0.03, 0.3)
_NOISE = 0.05
_FLOW = {"spec": CouplingSpec(width=24, depth=3, roughness=3)}


def digits(seed: int) -> Fields:
    """Open the digits, which are the same for all seeds."""
    case = CASES["digits-on-bunny"]()
    fitted, learned = case.train[:FITTED], case.train[FITTED : FITTED + LEARNED]
    return Fields(case.domain, along_z(case.domain, _ROWS), fitted, learned, case.test)


SUITE = FieldSuite(
    title="Every rival on a mesh",
    about=(
        "Handwritten digits on the surface of a bunny, 1839 nodes, values from 0 to 1; CRPS, "
        "energy score and RMSE are over hidden nodes, weighted by area. PSNR and SSIM are of the "
        f"surface seen from one side, {_ROWS} pixels high, hidden or not. The prior is fitted to "
        f"{FITTED} digits, with scales chosen by held-out ones; one flow, and each learned rival, "
        f"learns all masks from {LEARNED} others."
    ),
    fields=digits,
    tasks={
        "few": Task("5 % of nodes", _MASKS, _NOISE, density=0.05, hidden_only=True),
        "many": Task("20 % of nodes", _MASKS, _NOISE, density=0.2, hidden_only=True),
    },
    prior={
        "least_std": LEAST_STD,
        "rank": 300,
        "spec": DenoiserSpec("tiny", FINE, levels=24),
        "bounds": None,
        "quality_control": "off",
    },
    networks={
        "U-Net mean and spread": {"spec": CouplingSpec(base="independent", width=24, depth=3)},
        "generator by CRPS": {"spec": GeneratorSpec(width=24, depth=3), "score_scales": 5},
        START: _FLOW,
        APS: _FLOW,
    },
    data_range=1.0,
    colours="gray",
)
OPTIONS = options_of(SUITE)


def run(options: argparse.Namespace, made: str) -> None:
    """Run the contest."""
    run_suite("mesh", SUITE, options, made)
