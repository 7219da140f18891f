"""Statistics by name, as in ``["mean", "q05", "p>0"]``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from apsgeo.errors import InputError
from apsgeo.statistics.areas import AreaMean, Region
from apsgeo.statistics.density import EffectiveSampleSize, LogDensity
from apsgeo.statistics.moments import Mean, Std
from apsgeo.statistics.order import Quantile
from apsgeo.statistics.probability import Exceedance
from apsgeo.statistics.statistic import Statistic

__all__ = ["statistics_of"]

_NAMED: Mapping[str, Callable[[], Statistic]] = {
    "mean": Mean,
    "std": Std,
    "median": lambda: Quantile(0.5),
    "log_q": LogDensity,
    "ess": EffectiveSampleSize,
}
_QUANTILE = re.compile(r"q(\d{2,})")
_BEYOND = re.compile(r"p([<>])([-+0-9.eE]+)")


def statistics_of(
    given: Iterable[str | Statistic] | str, regions: Mapping[str, Region] | None = None
) -> list[Statistic]:
    """Return statistics, some of which are given by name.

    Names are mean, std, median, q05 (and so on: q5 is none, q975 is 97.5 %), p>0 and p<273.15 for
    the probability to be above or below, area for means by area, log_q and ess. Quantiles are
    joined into one, and so are thresholds.

    Args:
        given: Statistics and names, or names joined by commas.
        regions: Regions of "area"; by default all there is.

    Raises:
        InputError: If a name is not known, or there is none.
    """
    each = given.split(",") if isinstance(given, str) else list(given)
    found = [_named(one.strip(), regions) if isinstance(one, str) else one for one in each]
    if wrong := [one for one in found if not isinstance(one, Statistic)]:
        raise InputError(f"statistics has a {type(wrong[0]).__name__}; {_expected()}")
    if not found:
        raise InputError(f"statistics is empty; {_expected()}")
    return _joined(found)


def _named(name: str, regions: Mapping[str, Region] | None) -> Statistic:
    if name in _NAMED:
        return _NAMED[name]()
    if name == "area":
        return AreaMean(regions or {})
    if found := _QUANTILE.fullmatch(name):
        return Quantile(float(f"0.{found[1]}") if found[1] != "100" else 1.0)
    if found := _BEYOND.fullmatch(name):
        try:
            return Exceedance(float(found[2]), above=found[1] == ">")
        except ValueError as error:
            raise InputError(f"{found[2]!r} in {name!r} is no number; {_expected()}") from error
    raise InputError(f"{name!r} is no statistic; {_expected()}")


def _expected() -> str:
    return f"expected {', '.join(_NAMED)}, area, a quantile such as q05, or p>0, p<273.15"


def _joined(found: list[Statistic]) -> list[Statistic]:
    """Join quantiles, and thresholds of each side; leave out what is given twice."""
    kept: dict[object, Statistic] = {}
    for one in found:
        match one:
            case Quantile():
                before = kept.get("quantile")
                more = before.probabilities if isinstance(before, Quantile) else ()
                kept["quantile"] = Quantile(*more, *one.probabilities)
            case Exceedance():
                before = kept.get(one.above)
                thresholds = before.thresholds if isinstance(before, Exceedance) else ()
                kept[one.above] = Exceedance(*thresholds, *one.thresholds, above=one.above)
            case _:
                kept[type(one)] = one
    return list(kept.values())
