"""Settings of the build ``sphinx-build docs build/docs``, which needs the extra ``docs``."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import apsgeo

project = "apsgeo"
author = "the apsgeo developers"
release = version = apsgeo.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["tutorial"]
html_theme = "alabaster"

default_role = "py:obj"  # `name` in a docstring is a name of the API, and a link where it can be
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of a named tuple are documented by autodoc already
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}

# What docstrings hold of mathematics, |x|^2 or a * b, is markup to Sphinx unless it is escaped.
_CODE_OR_SIGN = re.compile(r"(``.*?``|`[^`]*`)|(?<!\\)([|*])")


def _escape(_app: Any, _kind: str, _name: str, _it: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = [_CODE_OR_SIGN.sub(lambda m: m[1] or "\\" + m[2], line) for line in lines]


def _run_howto(app: Any) -> None:
    """Run what the how-tos show, which fails the build where it fails."""
    sys.path.insert(0, str(app.srcdir))
    run = importlib.import_module("snippets").run
    run(Path(app.srcdir) / "howto.md")


def setup(app: Any) -> None:
    """Have Sphinx call `_escape` on every docstring, and run the how-tos first."""
    app.connect("autodoc-process-docstring", _escape, priority=100)
    app.connect("builder-inited", _run_howto)
