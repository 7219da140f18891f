"""The histories that people have: none but one gappy field, with gaps, of a moving climate; time.

python -m benchmarks history --parts field --heaton PATH      table history/field.* and figure
python -m benchmarks history --parts gaps time trend          tables in benchmarks/results/history
"""

from __future__ import annotations

import argparse

from benchmarks.history import field, gaps, time, trend
from benchmarks.options import Option

PARTS = {
    "field": field.run,
    "gaps": gaps.run,
    "time": time.run,
    "trend": trend.run,
}
OPTIONS = {
    "parts": tuple(PARTS),
    "every": Option(12, "th test month is scored, of those that are many"),
    "members": 100,
    **field.OPTIONS,
    **gaps.OPTIONS,
    **time.OPTIONS,
    **trend.OPTIONS,
}


def run(options: argparse.Namespace, made: str) -> None:
    """Run the parts."""
    for part in options.parts:
        PARTS[part](options, made)
