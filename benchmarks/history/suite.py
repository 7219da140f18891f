"""The histories that people have: none at all, but one gappy field (field).

python -m benchmarks history --parts field --heaton PATH      tables history_PART.* in
benchmarks/results, and docs/figures/history_field.png
"""

from __future__ import annotations

import argparse

from benchmarks.history import field

PARTS = {"field": field.run}
OPTIONS = {"parts": tuple(PARTS), **field.OPTIONS}


def run(options: argparse.Namespace, made: str) -> None:
    """Run the parts."""
    for part in options.parts:
        PARTS[part](options, made)
