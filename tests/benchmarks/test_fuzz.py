"""Cases of fuzzing that end their process count as they ended, and the others as if alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz import suite


def test_cases_are_counted_though_processes_die(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handled: list[Any] = []

    def case(number: int, *_: Any) -> tuple[str, str]:
        first = not handled
        handled.append(number)  # of this process: a fork begins with none
        if number in (2, 8):
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 3:
            os.kill(os.getpid(), signal.SIGPROF)
        if number == 5 and not first:  # by what others left in memory
            return "memory", ""
        if number == 7:
            return "memory", ""
        return "refused" if number % 2 else "read", str(number)

    monkeypatch.setattr(suite, "fuzz", case)
    found = list(suite.outcomes_of(range(9), 0, {}, tmp_path))
    outcomes = "read refused crash hang read refused read memory crash"
    assert [number for number, _, _ in found] == list(range(9))
    assert [outcome for _, outcome, _ in found] == outcomes.split()
    assert not handled
