"""Run a benchmark: python -m benchmarks SUITE [options]; SUITE --help says what it does.

A suite is a module with `OPTIONS` (see `benchmarks.options`) and `run(options, made)`. The text
`made`, which ends its page, has the command, the seed, the commit and the machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import torch

from benchmarks.options import add_options
from benchmarks.report import provenance

SUITES = {
    "ncep": "ncep.suite",
    "kriging-choice": "ncep.kriging_choice",
    "train-demo": "ncep.train_demo",
    "domains": "domains.suite",
    "scaling": "scaling.suite",
    "scaling-local": "scaling.local",
    "truth": "truth.suite",
    "amortization": "amortization.suite",
    "amortized": "amortized.suite",
    "history": "history.suite",
    "honesty": "honesty.suite",
    "spatial": "spatial.suite",
    "stages": "stages.suite",
    "paper-form": "stages.paper",
    "ablations": "ablations.suite",
    "fuzz": "fuzz.suite",
    "images": "images.suite",
    "priors": "priors.suite",
    "valued": "valued.suite",
    "trained-priors": "trained_priors.suite",
    "workflow": "workflow.suite",
    "kills": "workflow.kills",
    "speed": "rivals.speed",
    "climate": "rivals.climate",
    "rivals-images": "rivals.images",
    "mesh": "rivals.mesh",
    "healpix": "rivals.healpix",
    "nongaussian": "rivals.nongaussian",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; `run` of the result is the suite's."""
    first = argparse.ArgumentParser(
        prog="python -m benchmarks", usage="python -m benchmarks SUITE [options]"
    )
    first.add_argument("suite", choices=SUITES)
    name = first.parse_args(arguments[:1]).suite
    suite = import_module(f"benchmarks.{SUITES[name]}")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=suite.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, suite.OPTIONS)
    parser.set_defaults(run=suite.run)
    return parser.parse_args(arguments[1:])


def main(arguments: Sequence[str]) -> None:
    """Run the suite that the command line names."""
    options = parse(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    options.run(options, provenance(arguments, options.seed))


if __name__ == "__main__":
    main(sys.argv[1:])
