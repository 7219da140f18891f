"""The tables of the benchmark of trained priors, and the scores that they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apsgeo.metrics.table import Column, Table
from apsgeo.plotting.maps import save_figure
from benchmarks.report import page, save, save_arrays, write
from benchmarks.trained_priors.cases import CASES
from benchmarks.trained_priors.figure import Shown, draw_fields, draw_spectra
from benchmarks.trained_priors.scores import Score

BAR = 0.1  # largest relative error of the power of samples


@dataclass(frozen=True)
class Found:
    """The scores that were kept of one data set."""

    about: Mapping[str, Any]
    scores: Sequence[Score]
    shown: Shown

    def of(self, table: str, name: str) -> list[Score]:
        """Return the scores of a name, in the order of their keys."""
        return [row for row in self.scores if (row.table, row.name) == (table, name)]

    def one(self, table: str, name: str) -> Score:
        """Return the only score of a name."""
        (row,) = self.of(table, name)
        return row


def keep(
    cache: Path, name: str, about: Mapping[str, Any], rows: Sequence[Score], shown: Shown
) -> None:
    """Write the scores of a data set to a folder, for `write_report`."""
    kept = {"about": dict(about), "scores": [asdict(row) for row in rows]}
    write(cache / f"{name}.scores.json", json.dumps(kept))
    save_arrays(cache / f"{name}.shown.npz", real=shown.real, samples=shown.samples)


def load(cache: Path, name: str) -> Found:
    """Read what `keep` wrote."""
    kept = json.loads((cache / f"{name}.scores.json").read_text("utf-8"))
    with np.load(cache / f"{name}.shown.npz") as file:
        shown = Shown(file["real"], file["samples"])
    return Found(kept["about"], [Score(**row) for row in kept["scores"]], shown)


def _pm(row: Score) -> str:
    return f"{row.value:.3f} ± {row.standard_error:.3f}"


def _table(columns: Mapping[str, Callable[[Found], str]]) -> Table:
    """Return a table with a line a data set, of texts by their headings."""
    each = (Column(heading, "found", text) for heading, text in columns.items())
    return Table(Column("data set", "name"), *each)


def _least(found: Found) -> Score:
    return min(found.of("denoising", "ratio"), key=lambda row: row.value)


def _greatest(found: Found) -> Score:
    return max(found.of("denoising", "ratio"), key=lambda row: row.value)


def _curve(found: Found) -> str:
    ratios = found.of("denoising", "ratio")
    return ", ".join(f"{float(row.key):.3g}: {row.value:.3f}" for row in ratios)


def _count(rows: Sequence[Score], check: Callable[[Score], bool]) -> str:
    return f"{sum(check(row) for row in rows)} of {len(rows)}"


def _worst(found: Found, pair: str) -> str:
    """Return the greatest deviation of a ratio of powers from one, in percent."""
    worst = max(found.of("spectrum", pair), key=lambda row: abs(row.value - 1.0))
    return f"{100 * (worst.value - 1.0):+.1f} ± {100 * worst.standard_error:.1f}"


TRAINING = _table(
    {
        "fields learned from": lambda each: str(each.about["training"]["records"]),
        "network": lambda each: each.about["training"]["denoiser"]["size"],
        "steps": lambda each: str(each.about["training"]["steps"]),
    }
)
DENOISING = _table(
    {
        "least ratio": lambda each: f"{_least(each).value:.3f}",
        "at noise": lambda each: _least(each).key,
        "greatest ratio": lambda each: (
            f"{_greatest(each).value:.5f} ± {_greatest(each).standard_error:.5f}"
        ),
        "at that noise": lambda each: _greatest(each).key,
        "levels above 1": lambda each: _count(
            each.of("denoising", "ratio"), lambda row: row.value > 1.0
        ),
    }
)
CURVES = _table({"noise: ratio": _curve})
_DENSITIES = {
    "Gaussian, exact": "gaussian",
    "(a) ELBO": "elbo",
    "(b) anchored": "anchored",
    "(c) flow": "ode",
    "gap (c) - (a)": "ode - elbo",
    "(a) - Gaussian": "elbo - gaussian",
    "(b) - Gaussian": "anchored - gaussian",
    "(c) - Gaussian": "ode - gaussian",
}
DENSITY = _table(
    {
        heading: lambda each, name=name: _pm(each.one("density", name))  # type: ignore[misc]
        for heading, name in _DENSITIES.items()
    }
)
SPECTRA = _table(
    {
        "samples / training": lambda each: _worst(each, "samples / train"),
        "samples / test": lambda each: _worst(each, "samples / test"),
        "test / training": lambda each: _worst(each, "test / train"),
        "Gaussian's / training": lambda each: _worst(each, "gaussian / train"),
        "bands within 10 %": lambda each: _count(
            each.of("spectrum", "samples / train"), lambda row: abs(row.value - 1.0) <= BAR
        ),
    }
)
_DISTANCES = "samples, median; test, median; ratio of medians; samples, least; test, least"
MEMORIZATION = _table(
    {
        name: lambda each, name=name: f"{each.one('memorization', name).value:.3f}"  # type: ignore[misc]
        for name in _DISTANCES.split("; ")
    }
)


def verdict(found: Mapping[str, Found]) -> str:
    """Return for each bar a line that names the data sets that meet it and the others."""
    checks = {
        "denoising error at no level above the Gaussian's": lambda each: (
            max(row.value for row in each.of("denoising", "ratio")) <= 1.0
        ),
        "log-density above the Gaussian's by (a), (b) and (c)": lambda each: all(
            each.one("density", f"{method} - gaussian").value > 0.0
            for method in ("elbo", "anchored", "ode")
        ),
        "power of samples within 10 % of the training fields' in every band": lambda each: all(
            abs(row.value - 1.0) <= BAR for row in each.of("spectrum", "samples / train")
        ),
        "samples at least 0.9 times as far from the training fields as test fields are": (
            lambda each: each.one("memorization", "ratio of medians").value >= 0.9
        ),
    }
    lines = []
    for what, check in checks.items():
        missed = [name for name, each in found.items() if not check(each)]
        said = "on every data set" if not missed else f"**missed on {', '.join(missed)}**"
        lines.append(f"- {what}: {said}\n")
    return "".join(lines)


def markdown(found: Mapping[str, Found], made: str) -> str:
    """Return the page."""
    budget = next(iter(found.values())).about["budget"]
    seconds = sum(each.about["seconds"] for each in found.values())
    rows = [{"name": name, "found": each} for name, each in found.items()]
    return page(
        "Diffusion priors trained on real data",
        "Each is a Gaussian (EOFs and a Matern residual, its scales chosen by the likelihood of "
        "held-out training fields) and a network that corrects its denoiser, by `fit_prior`. All "
        "scores are on test fields that neither has seen, nor the choice of weights: later months, "
        "other images, other places. Values are standardized anomalies.",
        verdict(found),
        TRAINING.markdown(rows),
        "## Denoising",
        "Mean square error of the network over the Gaussian's, on the same noise, of "
        f"{budget['denoised']} fields (or all, if there are fewer). Noise is sigma / alpha.",
        DENOISING.markdown(rows),
        CURVES.markdown(rows),
        "## Log-density",
        f"Nats a value, of {budget['fields']} fields; (c), and all differences with it, of "
        f"{budget['flow_fields']} of these, with {budget['probes']} probes. Errors are standard "
        "errors over fields.",
        DENSITY.markdown(rows),
        "## Power of samples",
        f"{budget['samples']} samples by DPM-Solver++ in {budget['steps']} steps, and as many "
        "draws of the Gaussian. The greatest deviation over bands of eigenvalues, in percent, with "
        "the sampling error of that band; waves are at least four nodes long.",
        SPECTRA.markdown(rows),
        "## Distance to the nearest training field",
        MEMORIZATION.markdown(rows),
        f"{made}- seconds of scoring: {seconds}",
    )


def write_report(cache: Path, names: Sequence[str], made: str, output: Path, figures: Path) -> None:
    """Write tables and figures of the data sets that have been scored."""
    found = {name: load(cache, name) for name in names}
    rows = [
        {"data set": name, **asdict(row)} for name, each in found.items() for row in each.scores
    ]
    save(output / "trained_priors", rows, markdown(found, made))
    panels = {name: (CASES[name](), each.shown) for name, each in found.items()}
    save_figure(draw_fields(panels), figures / "trained_priors.png", overwrite=True)
    curves = {name: each.scores for name, each in found.items()}
    save_figure(draw_spectra(curves), figures / "trained_priors_spectra.png", overwrite=True)
