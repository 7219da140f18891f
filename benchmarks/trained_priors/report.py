"""The tables of benchmarks.trained_priors.suite, and the scores that they are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apsgeo.atomic import atomic_file, write_csv
from apsgeo.plotting import save_figure
from benchmarks.report import write
from benchmarks.trained_priors.cases import CASES
from benchmarks.trained_priors.figure import draw_fields, draw_spectra
from benchmarks.trained_priors.scores import Score

__all__ = ["Found", "Shown", "keep", "markdown", "write_report"]

Array = NDArray[np.float32]

BAR = 0.1  # of the power of samples, relative to the data's


@dataclass(frozen=True)
class Shown:
    """Real fields of the test, and samples, each (record, node), in the units of the data."""

    real: Array
    samples: Array


@dataclass(frozen=True)
class Found:
    """What was kept of one data set."""

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
    path = cache / f"{name}.shown.npz"
    with atomic_file(path, overwrite=True) as temporary, temporary.open("wb") as file:
        np.savez(file, real=shown.real, samples=shown.samples)


def load(cache: Path, name: str) -> Found:
    """Read what `keep` wrote."""
    kept = json.loads((cache / f"{name}.scores.json").read_text("utf-8"))
    with np.load(cache / f"{name}.shown.npz") as file:
        shown = Shown(file["real"], file["samples"])
    return Found(kept["about"], [Score(**row) for row in kept["scores"]], shown)


def _pm(row: Score, digits: int = 3) -> str:
    return f"{row.value:.{digits}f} ± {row.standard_error:.{digits}f}"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [heads, rule, *lines]) + "\n"


def _training(found: Mapping[str, Found]) -> str:
    lines = []
    for name, each in found.items():
        made = each.about["training"]
        size = made["denoiser"]["size"]
        lines.append([name, str(made["records"]), size, str(made["steps"])])
    heads = ["data set", "fields learned from", "network", "steps"]
    return _table(heads, lines)


def _denoising(found: Mapping[str, Found]) -> str:
    lines = []
    for name, each in found.items():
        ratios = each.of("denoising", "ratio")
        greatest = max(ratios, key=lambda row: row.value)
        least = min(ratios, key=lambda row: row.value)
        above = [row for row in ratios if row.value > 1.0]
        lines.append(
            [
                name,
                f"{least.value:.3f}",
                least.key,
                f"{greatest.value:.5f} ± {greatest.standard_error:.5f}",
                greatest.key,
                f"{len(above)} of {len(ratios)}",
            ]
        )
    heads = ["data set", "least ratio", "at noise", "greatest ratio", "at noise", "levels above 1"]
    return _table(heads, lines)


def _curves(found: Mapping[str, Found]) -> str:
    lines = []
    for name, each in found.items():
        ratios = each.of("denoising", "ratio")
        cells = ", ".join(f"{float(row.key):.3g}: {row.value:.3f}" for row in ratios)
        lines.append([name, cells])
    return _table(["data set", "noise: ratio"], lines)


def _density(found: Mapping[str, Found]) -> str:
    names = ["gaussian", "elbo", "anchored", "ode", "ode - elbo"]
    names += [f"{method} - gaussian" for method in ("elbo", "anchored", "ode")]
    lines = [
        [name, *(_pm(each.one("density", which)) for which in names)]
        for name, each in found.items()
    ]
    heads = ["data set", "Gaussian, exact", "(a) ELBO", "(b) anchored", "(c) flow"]
    heads += ["gap (c) - (a)", "(a) - Gaussian", "(b) - Gaussian", "(c) - Gaussian"]
    return _table(heads, lines)


def _greatest(rows: Sequence[Score]) -> str:
    worst = max(rows, key=lambda row: abs(row.value - 1.0))
    return f"{100 * (worst.value - 1.0):+.1f} ± {100 * worst.standard_error:.1f}"


def _spectra(found: Mapping[str, Found]) -> str:
    pairs = ["samples / train", "samples / test", "test / train", "gaussian / train"]
    lines = []
    for name, each in found.items():
        within = each.of("spectrum", "samples / train")
        count = sum(abs(row.value - 1.0) <= BAR for row in within)
        cells = [_greatest(each.of("spectrum", pair)) for pair in pairs]
        lines.append([name, *cells, f"{count} of {len(within)}"])
    heads = ["data set", "samples / training", "samples / test", "test / training"]
    heads += ["Gaussian's / training", "bands within 10 %"]
    return _table(heads, lines)


def _memorization(found: Mapping[str, Found]) -> str:
    names = ["samples, median", "test, median", "ratio of medians", "samples, least", "test, least"]
    lines = [
        [name, *(f"{each.one('memorization', which).value:.3f}" for which in names)]
        for name, each in found.items()
    ]
    return _table(["data set", *names], lines)


def verdict(found: Mapping[str, Found]) -> str:
    """Return one line a bar: which data sets meet it, and which do not."""
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


def markdown(found: Mapping[str, Found], said: str) -> str:
    """Return the report."""
    budget = next(iter(found.values())).about["budget"]
    seconds = sum(each.about["seconds"] for each in found.values())
    return (
        "# Diffusion priors trained on real data\n\n"
        "Each is a Gaussian (EOFs and a Matern residual, its scales chosen by the likelihood of "
        "held-out training fields) and a network that corrects its denoiser, by `fit_prior`. All "
        "scores are on test fields that neither has seen, nor the choice of weights: later months, "
        "other images, other places. Values are standardized anomalies.\n\n"
        f"{verdict(found)}\n"
        f"{_training(found)}"
        "## Denoising\n\n"
        f"Mean square error of the network over the Gaussian's, on the same noise, of "
        f"{budget['denoised']} fields (or all, if there are fewer). Noise is sigma / alpha.\n\n"
        f"{_denoising(found)}{_curves(found)}"
        "## Log-density\n\n"
        f"Nats a value, of {budget['fields']} fields; (c), and all differences with it, of "
        f"{budget['flow_fields']} of these, with {budget['probes']} probes. Errors are standard "
        "errors over fields.\n\n"
        f"{_density(found)}"
        "## Power of samples\n\n"
        f"{budget['samples']} samples by DPM-Solver++ in {budget['steps']} steps, and as many "
        "draws of the Gaussian. The greatest deviation over bands of eigenvalues, in percent, with "
        "the sampling error of that band; waves are at least four nodes long.\n\n"
        f"{_spectra(found)}"
        "## Distance to the nearest training field\n\n"
        f"{_memorization(found)}"
        f"{said}- seconds of scoring: {seconds}\n"
    )


def write_report(cache: Path, names: Sequence[str], said: str, output: Path, figures: Path) -> None:
    """Write tables and figures of the data sets that have been scored."""
    found = {name: load(cache, name) for name in names}
    rows = [
        {"data set": name, **asdict(row)} for name, each in found.items() for row in each.scores
    ]
    for row in rows:
        for column in ("value", "standard_error"):
            number = float(row[column])
            row[column] = "" if math.isnan(number) else f"{number:.6g}"
    write_csv(output / "trained_priors.csv", rows)
    write(output / "trained_priors.md", markdown(found, said))
    panels = {name: (CASES[name](), each.shown) for name, each in found.items()}
    save_figure(draw_fields(panels), figures / "trained_priors.png", overwrite=True)
    curves = {name: each.scores for name, each in found.items()}
    save_figure(draw_spectra(curves), figures / "trained_priors_spectra.png", overwrite=True)
