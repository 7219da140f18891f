"""The histories that people have: none at all, but one gappy field (field); months in a row (time).

python -m benchmarks history --parts field --heaton PATH      tables history_PART.* in
benchmarks/results, and docs/figures/history_field.png
"""

from __future__ import annotations

import argparse

from benchmarks.history import field, time

PARTS = {"field": field.run, "time": time.run}
OPTIONS = {"parts": tuple(PARTS), **field.OPTIONS, **time.OPTIONS}


def run(options: argparse.Namespace, made: str) -> None:
    """Run the parts."""
    for part in options.parts:
        PARTS[part](options, made)
