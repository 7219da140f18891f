"""The committed tables are what the benchmarks' columns make of the committed numbers."""

import csv
from pathlib import Path
from typing import Any

import pytest

from apsgeo.metrics.scoreboard import Scoreboard
from apsgeo.metrics.table import Table
from benchmarks.amortization.suite import TABLE as AMORTIZATION
from benchmarks.domains.suite import TABLE as DOMAINS
from benchmarks.history.gaps import TABLE as GAPS
from benchmarks.history.rain import TABLE as RAIN
from benchmarks.history.time import TABLE as TIME
from benchmarks.history.trend import TABLE as TREND
from benchmarks.images.scores import TABLE as IMAGES
from benchmarks.priors.report import GRADIENTS, pivoted
from benchmarks.priors.report import TABLE as PRIORS
from benchmarks.report import RESULTS
from benchmarks.rivals.harness import read_rows
from benchmarks.rivals.report import TABLE as RIVALS
from benchmarks.rivals.report import summary
from benchmarks.rivals.speed import TABLE as SPEED
from benchmarks.scaling.suite import TABLE as SCALING
from benchmarks.stages.suite import TABLE as STAGES
from benchmarks.truth.scores import TABLE as TRUTH
from benchmarks.valued.suite import TABLES as VALUED


def read(path: Path) -> list[dict[str, Any]]:
    """Return rows with numbers in place of their texts."""

    def value(key: str, text: str) -> Any:
        try:
            return text if key == "units" else float(text or "nan")
        except ValueError:
            return {"True": True, "False": False}.get(text, text)

    with path.open(encoding="utf-8") as file:
        return [{key: value(key, row[key]) for key in row} for row in csv.DictReader(file)]


SPEED_PAGES = sorted((RESULTS / "rivals").glob("speed*.csv"))
RIVAL_PAGES = sorted((RESULTS / "rivals").glob("*.csv"))
CONTESTS = [path.stem for path in RIVAL_PAGES if path not in SPEED_PAGES]
STAGES_PAGES = [path.stem for path in sorted((RESULTS / "stages").glob("*.csv"))]
TRUTH_PAGES = [path.stem for path in sorted((RESULTS / "truth").glob("*.csv"))]
VALUED_PAGES = [path.stem for path in sorted((RESULTS / "valued").glob("*.csv"))]
CASES = {
    "ncep": (Scoreboard().table, "ncep"),
    "domains": (DOMAINS, "domains"),
    "history/gaps": (GAPS, "history/gaps"),
    "history/rain": (RAIN, "history/rain"),
    "history/time": (TIME, "history/time"),
    "history/trend": (TREND, "history/trend"),
    **{f"images/{name}": (IMAGES, f"images/{name}") for name in ("fashion", "version-0.1")},
    "scaling": (SCALING, "scaling"),
    **{f"stages/{name}": (STAGES, f"stages/{name}") for name in STAGES_PAGES},
    "priors": (PRIORS, "priors"),
    "prior_gradients": (GRADIENTS, "priors"),
    **{f"truth/{name}": (TRUTH, f"truth/{name}") for name in TRUTH_PAGES},
    **{f"rivals/{path.stem}": (SPEED, f"rivals/{path.stem}") for path in SPEED_PAGES},
    **{f"valued/{name}": (VALUED[name], f"valued/{name}") for name in VALUED_PAGES},
    "truth/amortization": (AMORTIZATION, "truth/amortization"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_committed_table_is_made_of_its_numbers(name: str) -> None:
    table, page = CASES[name]
    rows = read(RESULTS / f"{name}.csv")
    made = table.markdown(pivoted(rows) if name == "priors" else rows)
    said = (RESULTS / f"{page}.md").read_text(encoding="utf-8").splitlines()
    lines = made.splitlines()[2:]
    assert len(lines) >= 3
    assert [line for line in lines if line not in said] == []
    assert made.splitlines()[0] in said


@pytest.mark.parametrize("name", CONTESTS)
def test_a_committed_contest_is_made_of_its_rows(name: str) -> None:
    path = RESULTS / "rivals" / f"{name}.csv"
    made = RIVALS.markdown(summary(read_rows(path), "APS"))
    said = path.with_suffix(".md").read_text(encoding="utf-8")
    assert len(made.splitlines()) > 6
    assert made in said


def test_what_no_row_has_is_no_column_and_errors_stand_behind_their_values() -> None:
    table: Table = AMORTIZATION
    line = table.markdown([{"measurements": 4.0, "gap": 0.5, "error": 0.25}]).splitlines()
    assert line[0] == "| measurements learned from | gap, nats a value |"
    assert line[2] == "| 4 | 0.50000 ± 0.25000 |"
