"""The histories that people have: records that follow each other in time (time).

python -m benchmarks history --parts time      tables history_PART.* in benchmarks/results
"""

from __future__ import annotations

import argparse

from benchmarks.history import time

PARTS = {"time": time.run}
OPTIONS = {"parts": tuple(PARTS), **time.OPTIONS}


def run(options: argparse.Namespace, made: str) -> None:
    """Run the parts."""
    for part in options.parts:
        PARTS[part](options, made)
