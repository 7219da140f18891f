"""The figure: score and cost of every posterior, by the share that is observed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apsgeo.metrics.table import Row

__all__ = ["draw"]

_REFERENCE = "localised, exact"


def _alike(found: dict[tuple[Any, Any], Row], case: str, method: str) -> bool:
    """Tell whether a method and the reference have the same months in a case."""
    reference = found.get((case, _REFERENCE))
    return reference is not None and reference["records"] == found[case, method]["records"]


def draw(rows: Sequence[Row], folder: Path) -> str:
    """Draw CRPS relative to the exact posterior, and seconds; return the path for the page."""
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(str(row["case"]) for row in rows))
    found = {(row["case"], row["method"]): row for row in rows}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        known = [case for case in cases if (case, method) in found]
        for axes, score in ((left, "crps"), (right, "seconds")):
            at = [case for case in known if score != "crps" or _alike(found, case, method)]
            values = [float(found[case, method][score]) for case in at]
            if score == "crps":
                values = [
                    value / float(found[case, _REFERENCE][score])
                    for case, value in zip(at, values, strict=True)
                ]
            own = method == "APS"
            axes.plot(at, values, "o-", label=method, lw=2.5 if own else 1.0, ms=4)
    left.set(title=f"CRPS relative to {_REFERENCE}", ylim=(0.8, 1.2))
    right.set(title="seconds a field, 32 members", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.tick_params(axis="x", rotation=30)
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(folder / "amortized.png", dpi=150)
    plt.close(figure)
    return "../../docs/figures/amortized.png"
