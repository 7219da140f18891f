"""The table that methods are compared in."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from apsgeo.errors import InputError
from apsgeo.metrics.predictions import Prediction
from apsgeo.metrics.scores import mse, weighted_mean
from apsgeo.metrics.table import Column, Row, Table, percent, write_rows

__all__ = ["Scoreboard", "Scores", "Tally"]

LEVEL = 0.9


@dataclass(frozen=True)
class Scores:
    """How one method did over some records.

    Attributes:
        crps: Weighted mean CRPS, averaged over records, in the unit of the data.
        rmse: Root of the weighted mean squared error of the predicted mean, which is averaged over
            records before the root is taken; in the unit of the data.
        spread_skill: Root of the mean predicted variance (of an ensemble: (K + 1) / K times the
            members') over ``rmse``, both pooled over records.
        coverage90: Share of cells in the central 90 % interval, mean over records.
        seconds_per_field: Wall-clock time that the prediction of one record took, in seconds.
        records: Number of records scored.
    """

    crps: float
    rmse: float
    spread_skill: float
    coverage90: float
    seconds_per_field: float
    records: int


class Tally:
    """Scores that grow record by record, so that no more than a batch is ever in memory."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.float64]] = []
        self._seconds = 0.0

    def add(
        self,
        prediction: Prediction,
        truth: NDArray[np.float64],
        weights: NDArray[np.float64],
        seconds: float,
    ) -> None:
        """Score a batch.

        Args:
            prediction: Prediction of T records.
            truth: True values (T, N), in the unit of the prediction.
            weights: Weights (T, N) of the cells, zero where a cell does not count.
            seconds: Wall-clock time that the batch took, in seconds.
        """
        row = [
            weighted_mean(prediction.crps(truth), weights),
            mse(prediction.mean(), truth, weights),
            weighted_mean(prediction.variance(), weights),
            weighted_mean(prediction.covered(truth, LEVEL), weights),
        ]
        self._rows.append(np.stack(row, axis=-1))
        self._seconds += seconds

    def scores(self) -> Scores:
        """Return the scores of all records added.

        Raises:
            InputError: If no record was added.
        """
        if not self._rows:
            raise InputError("no records were scored: give at least one month")
        rows = np.concatenate(self._rows)
        crps, square, variance, inside = (float(x) for x in rows.mean(0))
        return Scores(
            crps=crps,
            rmse=float(np.sqrt(square)),
            spread_skill=float(np.sqrt(variance / square)) if square else float("nan"),
            coverage90=inside,
            seconds_per_field=self._seconds / len(rows),
            records=len(rows),
        )


@dataclass
class Scoreboard:
    """A row of scores for each method and density, in the order in which they were added.

    Attributes:
        units: Unit of the data, for the headings.
        rows: The method's name, the density (the observed fraction of the area), and the fields of
            `Scores`, by their names.
    """

    units: str = "K"
    rows: list[Row] = field(default_factory=list)

    def add(self, method: str, density: float, scores: Scores) -> None:
        """Append a row."""
        self.rows.append({"method": method, "density": density, **asdict(scores)})

    @property
    def table(self) -> Table:
        """The columns as read by people, the best CRPS at each density in bold."""
        return Table(
            Column("method", "method"),
            Column("observed", "density", percent("g")),
            Column(f"CRPS [{self.units}]", "crps", ".3f", best_among="density"),
            Column(f"RMSE [{self.units}]", "rmse", ".3f"),
            Column("spread/skill", "spread_skill", ".2f"),
            Column("90 % coverage", "coverage90", percent()),
            Column("seconds a field", "seconds_per_field", ".3g"),
        )

    def to_markdown(self) -> str:
        """Return a Markdown table."""
        return self.table.markdown(self.rows)

    def write_csv(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write six digits of all scores.

        Raises:
            OutputExistsError: If ``path`` exists and ``overwrite`` is false.
        """
        write_rows(path, self.rows, overwrite)
