"""What was found of a task of the benchmark of images, kept so that a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from apsgeo.atomic import atomic_file
from apsgeo.field_prior import FieldPrior
from benchmarks.images.cases import Task
from benchmarks.images.figure import Panels
from benchmarks.images.scores import ImageRow
from benchmarks.report import write

__all__ = ["Found", "kept"]

Found = tuple[list[ImageRow], Panels]


def kept(path: Path, prior: FieldPrior, task: Task, make: Callable[[], Found]) -> Found:
    """Return what an earlier run kept at a path, or what `make` finds, and keep that.

    Args:
        path: Without a suffix: rows are beside it as JSON, pictures as npz.
        prior: On whose domain the images are.
        task: How they were measured.
        make: Does the work.
    """
    rows_path, pictures_path = path.with_suffix(".json"), path.with_suffix(".npz")
    if not rows_path.exists():
        rows, panels = make()
        pictures = {"truth": panels.truth, "measured": panels.measured, **panels.shown}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(pictures_path, overwrite=True) as temporary, temporary.open("wb") as file:
            np.savez(file, **pictures)  # type: ignore[arg-type]  # its last keyword is a flag
        write(rows_path, json.dumps([asdict(row) for row in rows]))
        return rows, panels
    rows = [ImageRow(**row) for row in json.loads(rows_path.read_text("utf-8"))]
    with np.load(pictures_path) as file:
        arrays = {name: file[name] for name in file.files}
    measured_on = task.operator.on(prior.domain).codomain or prior.domain
    truth, measured = arrays.pop("truth"), arrays.pop("measured")
    return rows, Panels(task.name, truth, measured, measured_on, prior.domain, arrays)
