"""Make tutorial.ipynb of tutorial.py, run: python docs/tutorial/notebook.py."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_DPI = 60


def cells(script: str) -> list[tuple[str, str]]:
    """Return kind, "markdown" or "code", and source of each cell of a script."""
    parts = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)[1:]
    found = []
    for mark, source in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in mark:
            found.append(("markdown", re.sub(r"^# ?", "", source.strip(), flags=re.MULTILINE)))
        else:
            found.append(("code", source.strip()))
    return found


def run(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a cell, and return what it printed and the figure that it ends with."""
    tree, last = ast.parse(source), None
    if tree.body and isinstance(end := tree.body[-1], ast.Expr):
        last = ast.Expression(end.value)
        tree.body.pop()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "tutorial", "exec"), names)
        value = None if last is None else eval(compile(last, "tutorial", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if hasattr(value, "savefig"):
        image = io.BytesIO()
        value.savefig(image, format="png", dpi=_DPI)
        data = {"image/png": base64.b64encode(image.getvalue()).decode()}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    return outputs


def notebook(script: str) -> dict[str, Any]:
    """Return the notebook of a script, run."""
    names: dict[str, Any] = {"__name__": "__main__"}
    made = []
    for number, (kind, source) in enumerate(cells(script)):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        cell["source"] = source.splitlines(keepends=True)
        if kind == "code":
            cell |= {"execution_count": None, "outputs": run(source, names)}
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = notebook((HERE / "tutorial.py").read_text(encoding="utf-8"))
    (HERE / "tutorial.ipynb").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
