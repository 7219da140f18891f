"""The histories that people have: with gaps, of a moving climate, with neighbouring times.

python -m benchmarks history --parts gaps rain time trend     tables in benchmarks/results/history
"""

from __future__ import annotations

import argparse

from benchmarks.history import gaps, rain, time, trend
from benchmarks.options import Option

PARTS = {
    "gaps": gaps.run,
    "rain": rain.run,
    "time": time.run,
    "trend": trend.run,
}
OPTIONS = {
    "parts": tuple(PARTS),
    "every": Option(12, "th test month is scored, of those that are many"),
    "members": 100,
    **gaps.OPTIONS,
    **rain.OPTIONS,
    **time.OPTIONS,
    **trend.OPTIONS,
}


def run(options: argparse.Namespace, made: str) -> None:
    """Run the parts."""
    for part in options.parts:
        PARTS[part](options, made)
