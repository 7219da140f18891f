"""The examples in docstrings say what comes out."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHOWN = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in [*ROOT.glob("apsgeo/**/*.py"), ROOT / "apsgeo/datasets/__init__.py"]
    if ">>> " in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", dict.fromkeys(SHOWN))
def test_examples_say_what_comes_out(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0
