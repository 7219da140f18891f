"""Every rival on heights of 500 hPa, on the pixels of HEALPix.

python -m benchmarks healpix     writes benchmarks/results/rivals/healpix.* and two figures
"""

from __future__ import annotations

import argparse

from apsgeo.flows.build import CouplingSpec, GeneratorSpec
from apsgeo.operators import Mask
from benchmarks.rivals.fields import APS, START, Fields, FieldSuite, options_of, run_suite
from benchmarks.stages.cases import CASES
from benchmarks.tasks import Task
from benchmarks.views import globe

_EVERY = 7  # of the test months, so that all seasons come in turn
_ROWS = 48  # of pictures: a pixel is about as large as a node
_MASKS = Mask(0.005, 0.3)
_NOISE = 5.0  # m
_ELEMENTWISE = {"spec": CouplingSpec(width=16, depth=3), "rounds": 2}


def months(seed: int) -> Fields:
    """Open the months, which are the same for all seeds."""
    case = CASES["z500-healpix"]().trained
    view = globe(case.domain, _ROWS)
    return Fields(case.domain, view, case.train, case.train, case.test[::_EVERY])


SUITE = FieldSuite(
    title="Every rival on the sphere",
    about=(
        "Monthly heights of 500 hPa (NCEP/NCAR) on HEALPix, nside 16, 3072 pixels; fitted to "
        f"months up to 2014, tried on every {_EVERY}th after. CRPS, energy score and RMSE are in m "
        "over hidden pixels; PSNR and SSIM are of anomalies in the Mollweide projection, hidden or "
        "not. Scales are chosen by held-out months; flows and learned rivals have the months that "
        "the prior is fitted to, cross-fitted. No method is given neighbouring months."
    ),
    fields=months,
    tasks={
        "few": Task("1 % of pixels", _MASKS, _NOISE, density=0.01, hidden_only=True),
        "many": Task("5 % of pixels", _MASKS, _NOISE, density=0.05, hidden_only=True),
    },
    prior={"rank": 300, "memory": False, "trend": None, "quality_control": "off"},
    networks={
        "U-Net mean and spread": {"spec": CouplingSpec(base="independent", width=16, depth=3)},
        "generator by CRPS": {"spec": GeneratorSpec(width=16, depth=3), "score_scales": 5},
        START: _ELEMENTWISE,
        APS: _ELEMENTWISE,
    },
    defaults={"prior_steps": 600, "flow_steps": 400},
    data_range=600.0,
    anomalies=True,
)
OPTIONS = options_of(SUITE)


def run(options: argparse.Namespace, made: str) -> None:
    """Run the contest."""
    run_suite("healpix", SUITE, options, made)
