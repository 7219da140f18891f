"""One owner of the time axis: what it says of records, whatever kind of dates it holds."""

from typing import Any

import cftime
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import GridError, InputError, OneSeasonWarning
from apsgeo.labels.dates import Dates

CALENDARS = ["standard", "noleap", "360_day", "julian"]


def dates(values: Any, name: str = "time") -> Dates:
    array = xr.DataArray(np.zeros(len(values)), {name: values}, (name,))
    return Dates.of(array, (name,), "obs")


def months(calendar: str | None, count: int = 36) -> NDArray[Any]:
    """Return the first days of months, datetime64 or cftime of a calendar."""
    options: dict[str, Any] = {} if calendar is None else {"calendar": calendar, "use_cftime": True}
    return np.asarray(xr.date_range("2000-01-01", periods=count, freq="MS", **options))


@pytest.mark.parametrize("calendar", [None, *CALENDARS])
def test_every_calendar_says_the_same_of_its_months(calendar: str | None) -> None:
    found = dates(months(calendar))
    found.check_history()
    assert found.known
    np.testing.assert_array_equal(found.season(12), np.arange(36) % 12)
    np.testing.assert_array_equal(found.season(1), np.zeros(36))
    assert found.count_seasons() == 12
    with pytest.warns(OneSeasonWarning, match="obs has the month 9 in 1 records"):
        assert found[np.arange(20)].count_seasons() == 1
    np.testing.assert_array_equal(
        found.within("2001", "2002-03"), (np.arange(36) >= 12) & (np.arange(36) < 27)
    )
    np.testing.assert_array_equal(found.since("2001-02-02"), np.arange(36) >= 14)
    tenth = found.last_tenth()
    assert str(tenth)[:10] == "2002-10-01"
    np.testing.assert_array_equal(found.since(tenth), np.arange(36) >= 33)
    # what was held out of dates of numpy can be held out of any other
    np.testing.assert_array_equal(found.since("2002-10-01T00:00:00.000000000"), np.arange(36) >= 33)


def test_keys_are_nanoseconds_since_1970_or_numbers_or_places() -> None:
    times = months(None)
    keys = times.astype("datetime64[ns]").astype(np.int64)
    for same in (times, times.astype("datetime64[s]"), months("standard")):
        np.testing.assert_array_equal(dates(same).key, keys)
    np.testing.assert_array_equal(dates([4, 2, 9], "sample").key, [4, 2, 9])
    np.testing.assert_array_equal(dates([0.5], "x").key, np.array([0.5]).view(np.int64))
    np.testing.assert_array_equal(dates(["b", "a"], "name").key, [0, 1])
    one = xr.DataArray(0.0, {"time": times[3]})
    assert Dates.of(one, (), "obs").key == keys[3]
    assert dates(times).names[:2] == ["2000-01-01", "2000-02-01"]
    assert dates(["b", "a"], "name").names == ["record 0", "record 1"]


def test_places_are_found_by_date() -> None:
    own = dates(months(None))
    wanted = np.array([7, 3, 35])
    for calendar in (None, "standard"):
        np.testing.assert_array_equal(own.places_of(dates(months(calendar)[wanted])), wanted)
    np.testing.assert_array_equal(own.places_of(dates(months(None, 37)[[36, 0]])), [-1, 0])
    # a day of another calendar is that of the same date, whatever number of days has passed
    np.testing.assert_array_equal(own.places_of(dates(months("noleap")[wanted])), wanted)
    leap = np.array([cftime.Datetime360Day(2000, 2, day) for day in (1, 30)])
    np.testing.assert_array_equal(own.places_of(dates(leap)), [1, -1])
    np.testing.assert_array_equal(own.places_of(dates(np.arange(2))), [-1, -1])


def test_what_is_no_order_is_refused() -> None:
    times = months("noleap")
    with pytest.raises(GridError, match="'time' holds 2000-03-01 .* 2 times"):
        dates(times[[0, 2, 2]]).check_order()
    with pytest.raises(GridError, match="'time' neither ascends nor"):
        dates(times[[0, 2, 1]]).check_order()
    dates(times[::-1]).check_order()
    with pytest.raises(GridError, match="must ascend"):
        dates(times[::-1]).check_history()
    with pytest.raises(InputError, match="no dates"):
        dates(np.arange(4)).check_history()


def test_dates_far_from_1970_are_told_apart() -> None:
    years = np.array(["0850-01-01", "2000-06-30", "9000-12-31"], dtype="datetime64[s]")
    far = dates(years)
    far.check_history()
    assert far.season(12).tolist() == [0, 5, 11]
    assert far.since("2000-06").tolist() == [False, True, True]
    assert far.since(str(far.values[2])).tolist() == [False, False, True]
    assert far.within("0001", "2000").tolist() == [True, True, False]


def test_dates_that_cannot_be_read_are_refused() -> None:
    for calendar in (None, "noleap"):
        with pytest.raises(InputError, match="held_out_from='yesterday' cannot be read"):
            dates(months(calendar)).since("yesterday")
    with pytest.raises(InputError, match=r"baseline=.* cannot be read .*'noleap'"):
        dates(months("noleap")).within("2000", "2000-02-29")
    days = np.array([cftime.Datetime360Day(2000, 2, day) for day in (28, 29, 30)])
    assert dates(days).since("2000-02-30").tolist() == [False, False, True]
    with pytest.raises(InputError, match="names dates, and obs has none"):
        dates(np.arange(4), "sample").since("2000")


def test_a_date_without_dashes_is_no_year() -> None:
    time = xr.date_range("1990-01-01", periods=36, freq="MS")
    array = xr.DataArray(np.zeros(36), {"time": time}, ("time",))
    found = Dates.of(array, ("time",), "the history")
    np.testing.assert_array_equal(
        found.within("19910101", "19911231"), found.within("1991-01-01", "1991-12-31")
    )
    assert found.within("19910101", "19911231").sum() == 12
