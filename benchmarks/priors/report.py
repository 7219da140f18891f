"""The tables and the figure of the benchmark of priors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apsgeo.metrics.table import Column, Row, Table
from apsgeo.plotting.maps import save_figure
from benchmarks.report import page

LABELS = {
    "elbo": "(a) ELBO",
    "elbo-anchored": "(a) ELBO, anchored",
    "anchored": "(b) anchored",
    "ode-exact": "(c) exact trace",
    "ode-hutchinson": "(c) Hutchinson",
}
_LEAST = 1e-3  # nats that the integration and the ends of the schedule may cost
_PRIOR = (
    Column("values", "dims", ".0f"),
    Column("components", "components", ".0f"),
    Column("means", "mean_rms", "g"),
)


def _cell(row: Row) -> str:
    return f"{row['bias']:.2g} ± {row['standard_error']:.1g}"


def _number(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value:.3g}"


TABLE = Table(
    *_PRIOR,
    Column("log p", "log_density", ".1f"),
    Column("gap", "anchor_gap", ".2f"),
    *(Column(label, method, _cell) for method, label in LABELS.items()),
    Column("(a)/(b)", "ratio", _number),
    Column("(a), anchored/(b)", "anchored_ratio", _number),
)
"""A line a prior, of what `pivoted` returns."""
GRADIENTS = Table(
    *_PRIOR,
    Column("method", "method", LABELS.__getitem__),
    Column("Jacobian of the network", "differentiate_network", lambda x: "yes" if x else "no"),
    Column("bias", "bias", ".2g"),
    Column("its standard error", "standard_error", ".1g"),
    Column("noise", "noise", ".3g"),
)
ABOUT = (
    "Priors are mixtures of random fields with white noise of variance 0.02, of so many "
    "components, the root mean square of whose means is given (the first is a Gaussian); the "
    "anchor is the Gaussian of the same mean and covariance. *log p* is the mean over the "
    "fields, *gap* the same of log p - log p_G: how far from Gaussian. Then, in nats, the "
    "error of that mean ± its standard error. (a) and (b) take 9 evaluations a pass, and have "
    "dozens of passes for 8 fields; (c) has 8 fields, or one of many values. The ratios "
    "are of the variances of one pass for one field at equal evaluations, of (a), and of "
    "(a) with the anchor's control variate, to (b). (c) uses the anchor as "
    "control variate of Hutchinson's estimate."
)
ABOUT_GRADIENTS = (
    "Against the exact score at one field, relative to its norm; *noise* is the root mean "
    "square error of one pass of 9 evaluations."
)


def pivoted(rows: Sequence[Row]) -> list[Row]:
    """Return a row a prior, which has the rows of the methods by their names."""
    found: dict[tuple[int, int, float], dict[str, Any]] = {}
    for row in rows:
        each = found.setdefault((row["dims"], row["components"], row["mean_rms"]), {**row})
        each[row["method"]] = row
    for each in found.values():
        each["ratio"] = _ratio(each["elbo"], each["anchored"])
        each["anchored_ratio"] = _ratio(each["elbo-anchored"], each["anchored"])
    return list(found.values())


def _ratio(first: Row, second: Row) -> float:
    """Return the ratio of the variances of a pass; infinite where the second has none."""
    least = 1e-9 * first["pass_std"]
    return (first["pass_std"] / second["pass_std"]) ** 2 if second["pass_std"] > least else np.inf


def _verdict(rows: Sequence[Row]) -> str:
    outside = [
        f"{LABELS[row['method']]} in {row['dims']} ({row['components']}, {row['mean_rms']:g})"
        for row in rows
        if abs(row["bias"])
        > max(3.0 * row["standard_error"], _LEAST * max(1.0, row["dims"] / 1000))
    ]
    said = "No bias is above three standard errors"
    if outside:
        said = "Above three standard errors are " + ", ".join(outside)
    return (
        f"{said} (or, where the standard error is smaller, above {_LEAST:g} nats for every "
        "thousand values, from the integration and the ends of the schedule)."
    )


def report(rows: Sequence[Row], gradients: Sequence[Row], made: str) -> str:
    """Return the page."""
    parts = [ABOUT, TABLE.markdown(pivoted(rows)), _verdict(rows)]
    if gradients:
        heading = "## Gradients with respect to the field"
        parts += [heading, ABOUT_GRADIENTS, GRADIENTS.markdown(gradients)]
    return page("Log-densities with exact scores, against the truth", *parts, made)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the standard deviation of a pass for one field by method and number of values."""
    from matplotlib.figure import Figure

    shapes = sorted({(row["mean_rms"], row["components"]) for row in rows})
    figure = Figure(figsize=(2.6 * len(shapes), 3.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(shapes), sharey=True, squeeze=False)[0]
    for axes, (mean_rms, components) in zip(panels, shapes, strict=True):
        for index, (method, label) in enumerate(LABELS.items()):
            found = [
                row
                for row in rows
                if (row["mean_rms"], row["components"], row["method"])
                == (mean_rms, components, method)
            ]
            dims = [row["dims"] for row in found]
            spread = np.maximum([row["pass_std"] for row in found], 1e-3)
            if method != "ode-exact":
                axes.plot(dims, spread, "o-", ms=3, color=f"C{index}", label=label)
        title = "Gaussian" if components == 1 else f"{components} components, means {mean_rms:g}"
        axes.set(xscale="log", yscale="log", xlabel="values of a field", title=title)
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("standard deviation of a pass (nats)")
    panels[-1].legend(fontsize=7)
    save_figure(figure, path, overwrite=True)
