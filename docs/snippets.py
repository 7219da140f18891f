"""Run the Python of Markdown pages, block by block: python docs/snippets.py PAGE."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[int, str]]:
    """Return the line and the code of each block of Python."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start()) + 2, m[1]) for m in _BLOCK.finditer(text)]


def run(page: Path) -> dict[str, Any]:
    """Run the blocks of a page in an empty folder, and return what they defined."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found = blocks(page)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for line, code in found:
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
    return names


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    for name in sys.argv[1:]:
        run(Path(name).resolve())
