"""Progress of what takes long: bars on a terminal, or records for another program."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

__all__ = ["Bar", "reported", "say"]

Sink = Callable[[Mapping[str, Any]], None]

_sinks: list[Sink] = []
_SECONDS = 1.0  # between two records


@contextmanager
def reported(sink: Sink) -> Iterator[None]:
    """Give what bars would show to a function, as records, within the context."""
    _sinks.append(sink)
    try:
        yield
    finally:
        _sinks.remove(sink)


class Bar(tqdm):
    """A bar of tqdm, which shows on a terminal alone, or is reported; see `reported`.

    Args:
        iterable: What is gone through, if anything.
        total: Number of steps.
        name: What is done, in plain words.
        enabled: Whether there is a bar at all.
        options: Further options of `tqdm.tqdm`.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        total: float | None = None,
        name: str = "",
        enabled: bool = True,
        **options: Any,
    ) -> None:
        self._sink = _sinks[-1] if _sinks else None
        quiet: bool | None = None if enabled else True  # None shows it on a terminal
        if self._sink is not None and enabled:
            quiet = False
            options |= {"file": io.StringIO(), "mininterval": _SECONDS, "miniters": 1, "delay": 0}
        super().__init__(iterable, total=total, desc=name, disable=quiet, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Show the bar, or report it."""
        if self._sink is None:
            return super().display(msg, pos)
        if msg != "":  # which clears the line
            done = {"stage": self.desc.removesuffix(": "), "done": self.n, "total": self.total}
            self._sink({"event": "progress", **done})
        return True


def say(text: str) -> None:
    """Print a line on stderr above the bars, or report it."""
    if _sinks:
        _sinks[-1]({"event": "message", "message": text})
    else:
        tqdm.write(text, sys.stderr)
