"""The options of the command line: those that all suites share, and how a suite names its own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report import FIGURES, RESULTS


@dataclass(frozen=True)
class Option:
    """One option: its default, or its type if it has none; a tuple takes several values.

    Attributes:
        default: The value if the option is not given.
        help: What it is, after the option's name.
        choices: The values that are possible, if not all are.
    """

    default: Any
    help: str
    choices: Sequence[Any] | None = None

    def add_to(self, parser: argparse.ArgumentParser, name: str) -> None:
        """Teach a parser the option."""
        default, several = self.default, isinstance(self.default, tuple)
        kind = default if isinstance(default, type) else type(default[0] if several else default)
        known: dict[str, Any] = {"nargs": "+"} if several else {}
        if kind is not default:
            known["default"] = default
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, choices=self.choices, help=self.help, **known
        )


SHARED = {
    "seed": Option(0, "of all random draws"),
    "threads": Option(int, "of torch"),
    "output": Option(RESULTS, "folder of the tables"),
    "figures": Option(FIGURES, "folder of the figures"),
}
_SOME = {"members": "size of the ensembles", "parts": "some of the parts; all by default"}


def add_options(parser: argparse.ArgumentParser, own: Mapping[str, Any]) -> None:
    """Add the shared options and a suite's own to a parser.

    Args:
        parser: The parser that learns them.
        own: By name an `Option`, or another default of a shared one. Of ``parts``, the default is
            all that can be chosen.
    """
    for name, given in {**SHARED, **own}.items():
        option = given
        if not isinstance(given, Option):
            help = SHARED[name].help if name in SHARED else _SOME[name]
            option = Option(given, help, given if name == "parts" else None)
        option.add_to(parser, name)
