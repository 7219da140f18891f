"""The benchmark of the workflow at small size: its model fills, its rivals do what they say."""

import numpy as np
import pytest

from benchmarks.workflow.suite import RECORDS, TABLE, _cost, _slope
from benchmarks.workflow.task import Dineof, _leading
from tests.cases import numpy_seeded


def test_a_row_is_measured() -> None:
    row = {"varied": "cells", **_cost(100, 3, 1, 0)}
    assert row["rate"] * row["seconds"] == pytest.approx(RECORDS)
    assert "| cells | 100 | 3 | 1 |" in TABLE.markdown([row])


def test_slopes_are_those_of_powers() -> None:
    rows = [{"varied": "cells", "cells": n, "seconds": 2.0 * n**0.9} for n in (1, 10, 100, 1000)]
    np.testing.assert_allclose(_slope(rows, "cells"), 0.9)


def test_dineof_completes_what_has_few_patterns() -> None:
    rng = numpy_seeded(0)
    whole = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 200))
    history, new = whole[:50], whole[50:].copy()
    hidden = rng.random(new.shape) < 0.3
    trial = np.where(hidden, np.nan, history[-10:])
    dineof = Dineof(history, trial, rng.uniform(0.5, 1.5, 200))
    assert dineof.chosen > 0  # two patterns are too few
    filled = dineof(np.where(hidden, np.nan, new), _leading)
    error = np.square(filled - new)[hidden].mean() / np.square(new)[hidden].mean()
    assert error < 0.2  # of the variance, after a few rounds
    np.testing.assert_allclose(filled[~hidden], new[~hidden], rtol=1e-14)
