"""The tables and the figure of benchmarks.priors.suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apsgeo.plotting import save_figure
from benchmarks.report import FIGURES

if TYPE_CHECKING:
    from benchmarks.priors.suite import GradientRow, Row

__all__ = ["FIGURE", "draw", "report"]

FIGURE = FIGURES / "priors.png"
LABELS = {
    "elbo": "(a) ELBO",
    "elbo-anchored": "(a) ELBO, anchored",
    "anchored": "(b) anchored",
    "ode-exact": "(c) exact trace",
    "ode-hutchinson": "(c) Hutchinson",
}
_LEAST = 1e-3  # nats that the integration and the ends of the schedule may cost


def _by_prior(rows: Sequence[Row]) -> dict[tuple[int, int, float], dict[str, Row]]:
    found: dict[tuple[int, int, float], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row.dims, row.components, row.mean_rms), {})[row.method] = row
    return found


def _ratio(first: Row, second: Row) -> float:
    """Return the ratio of the variances of a pass; infinite where the second has none."""
    least = 1e-9 * first.pass_std
    return (first.pass_std / second.pass_std) ** 2 if second.pass_std > least else np.inf


def _number(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value:.3g}"


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{row.bias:.2g} ± {row.standard_error:.1g}"


def report(
    rows: Sequence[Row], gradients: Sequence[GradientRow], provenance: str, seconds: float
) -> str:
    """Return the tables, with what is needed to make them again."""
    heads = " | ".join(LABELS.values())
    lines = []
    for (dims, components, mean_rms), each in _by_prior(rows).items():
        cells = " | ".join(_cell(each.get(method)) for method in LABELS)
        some, b = each["elbo"], each["anchored"]
        ratios = f"{_number(_ratio(some, b))} | {_number(_ratio(each['elbo-anchored'], b))}"
        lines.append(
            f"| {dims} | {components} | {mean_rms:g} | {some.log_density:.1f} "
            f"| {some.anchor_gap:.2f} | {cells} | {ratios} |"
        )
    outside = [
        row
        for row in rows
        if abs(row.bias) > max(3.0 * row.standard_error, _LEAST * max(1.0, row.dims / 1000))
    ]
    verdict = (
        "No bias is above three standard errors"
        if not outside
        else "Above three standard errors are "
        + ", ".join(
            f"{LABELS[r.method]} in {r.dims} ({r.components}, {r.mean_rms:g})" for r in outside
        )
    )
    return (
        "# Log-densities with exact scores, against the truth\n\n"
        "Priors are mixtures of random fields with white noise of variance 0.02, of so many "
        "components, the root mean square of whose means is given (the first is a Gaussian); the "
        "anchor is the Gaussian of the same mean and covariance. *log p* is the mean over the "
        "fields, *gap* the same of log p - log p_G: how far from Gaussian. Then, in nats, the "
        "error of that mean ± its standard error. (a) and (b) take 9 evaluations a pass, and have "
        "dozens of passes for 8 fields; (c) has 8 fields, or one of many values. The ratios "
        "are of the variances of one pass for one field at equal evaluations, of (a), and of "
        "(a) with the anchor's control variate, to (b). (c) uses the anchor as "
        "control variate of Hutchinson's estimate.\n\n"
        f"| values | components | means | log p | gap | {heads} | (a)/(b) | (a), anchored/(b) |\n"
        f"|{' ---: |' * (7 + len(LABELS))}\n" + "\n".join(lines) + "\n\n"
        f"{verdict} (or, where the standard error is smaller, above {_LEAST:g} nats for every "
        "thousand values, from the integration and the ends of the schedule).\n\n"
        f"{_gradient_table(gradients)}{provenance}- seconds: {seconds:.0f}\n"
    )


def _gradient_table(gradients: Sequence[GradientRow]) -> str:
    if not gradients:
        return ""
    lines = "\n".join(
        f"| {row.dims} | {row.components} | {row.mean_rms:g} | {LABELS[row.method]} "
        f"| {'yes' if row.differentiate_network else 'no'} | {row.bias:.2g} "
        f"| {row.standard_error:.1g} | {row.noise:.3g} |"
        for row in gradients
    )
    return (
        "## Gradients with respect to the field\n\n"
        "Against the exact score at one field, relative to its norm; *noise* is the root mean "
        "square error of one pass of 9 evaluations.\n\n"
        "| values | components | means | method | Jacobian of the network | bias "
        "| its standard error | noise |\n"
        f"| ---: | ---: | ---: | --- | --- | ---: | ---: | ---: |\n{lines}\n\n"
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the standard deviation of a pass for one field by method and number of values."""
    from matplotlib.figure import Figure

    shapes = sorted({(row.components, row.mean_rms) for row in rows}, key=lambda s: (s[1], s[0]))
    figure = Figure(figsize=(2.6 * len(shapes), 3.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(shapes), sharey=True, squeeze=False)[0]
    for axes, (components, mean_rms) in zip(panels, shapes, strict=True):
        for index, (method, label) in enumerate(LABELS.items()):
            found = [
                row
                for row in rows
                if (row.components, row.mean_rms, row.method) == (components, mean_rms, method)
            ]
            dims = [row.dims for row in found]
            spread = np.maximum([row.pass_std for row in found], 1e-3)
            if method != "ode-exact":
                axes.plot(dims, spread, "o-", ms=3, color=f"C{index}", label=label)
        title = "Gaussian" if components == 1 else f"{components} components, means {mean_rms:g}"
        axes.set(xscale="log", yscale="log", xlabel="values of a field", title=title)
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("standard deviation of a pass (nats)")
    panels[-1].legend(fontsize=7)
    save_figure(figure, path, overwrite=True)
