"""The numbers of seasons that normals may have, and what each season is a part of."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SEASONS", "Seasons", "seasons_of"]


@dataclass(frozen=True)
class Seasons:
    """Seasons of parts of the year and, for steps shorter than a day, parts of the day.

    Season i is part i // hours of the year, and part i % hours of the day.

    Attributes:
        parts: Number of equal parts of the year; twelve are the months, one is the whole year.
        hours: Number of equal parts of the day.
        most: Longest step in days of records that have these seasons.
    """

    parts: int
    hours: int = 1
    most: float = float("inf")

    @property
    def number(self) -> int:
        """Number of seasons."""
        return self.parts * self.hours


SEASONS = (
    Seasons(24, 8, 0.13),  # a number below 256, as records' seasons are stored
    Seasons(36, 4, 0.26),
    Seasons(36, 2, 0.51),
    Seasons(73, 1, 5.5),
    Seasons(36, 1, 10.5),
    Seasons(12),
    Seasons(1),
)
"""From the shortest on; each has a number of its own."""


def seasons_of(number: int) -> Seasons:
    """Return the seasons of a number; parts of the year where it is none of those known."""
    return next((each for each in SEASONS if each.number == number), Seasons(number))
