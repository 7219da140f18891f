"""Units are compared by what they mean, and scores convert them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from apsgeo.errors import InputError, UnitsError
from apsgeo.evaluation import crps, rmse, score_ensemble, spread_skill
from apsgeo.labels.units import check_units, conversion
from tests.cases import history, numpy_seeded


@pytest.mark.parametrize(
    ("own", "wanted", "expected"),
    [
        ("degC", "K", (1.0, 273.15)),
        ("kelvin", "Celsius", (1.0, -273.15)),
        ("degF", "degC", (5 / 9, -160 / 9)),
        ("hPa", "Pa", (100.0, 0.0)),
        ("Pa", "mbar", (0.01, 0.0)),
        ("mm", "m", (1e-3, 0.0)),
        ("km h-1", "m/s", (1 / 3.6, 0.0)),
        ("mm/day", "m s-1", (1e-3 / 86400, 0.0)),
        ("g kg-1", "kg/kg", (1e-3, 0.0)),
        ("g/kg", "1", (1e-3, 0.0)),
        ("%", "1", (0.01, 0.0)),
        ("W m**-2", "W/m^2", (1.0, 0.0)),
        ("m**2 s**-2", "m2 s-2", (1.0, 0.0)),
        ("psu", " psu ", (1.0, 0.0)),
        ("degree_C", "celsius", (1.0, 0.0)),
        ("kg m-2 s-1", "mm/day", None),
        ("m", "K", None),
        ("psu", "1", None),
        ("counts", "1e3", None),
    ],
)
def test_units_are_understood(own: str, wanted: str, expected: Any) -> None:
    found = conversion(own, wanted)
    assert (found is None) == (expected is None)
    if found is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        scale, offset = conversion(wanted, own)  # type: ignore[misc]
        np.testing.assert_allclose(
            (scale * expected[0], scale * expected[1] + offset), (1, 0), atol=1e-9
        )


@pytest.mark.parametrize(
    ("own", "units", "match", "shell"),
    [
        ("K", "degC", r"use \(obs - 273.15\)", "-subc,273.15"),
        ("Pa", "hPa", r"use \(obs / 100\)", "-divc,100"),
        ("m", "mm", r"use \(obs \* 1000\)", "-mulc,1000"),
    ],
)
def test_the_error_says_how_to_convert(own: str, units: str, match: str, shell: str) -> None:
    with pytest.raises(UnitsError, match=match) as caught:
        check_units(xr.DataArray(0.0, attrs={"units": own}), units)
    assert shell in str(caught.value.shell)


def test_scores_are_those_of_the_same_units() -> None:
    truth = history(1)
    noise = numpy_seeded(3).standard_normal((6, *truth.shape)).astype("f4")
    ensemble = (truth + xr.DataArray(noise, dims=("member", *truth.dims))).assign_attrs(truth.attrs)
    kelvin = (truth.astype("f8") + 273.15).assign_attrs(units="K")
    same, other = (score_ensemble(ensemble, each, progress=False) for each in (truth, kelvin))
    for name in ("crps", "rmse", "spread_skill", "coverage90"):
        assert getattr(same, name) == pytest.approx(getattr(other, name), rel=1e-4)
    by_name: list[Any] = [crps, rmse, spread_skill]
    for score in by_name:
        found = score(ensemble, kelvin)
        np.testing.assert_allclose(found, score(ensemble, truth), rtol=1e-4)
        assert found.attrs.get("units", "degC") == "degC"
    scores: list[Any] = [crps, rmse, score_ensemble]
    for score in scores:
        with pytest.raises(UnitsError, match="truth has units 'mm', and"):
            score(ensemble, truth.assign_attrs(units="mm"))


def test_scores_of_other_coordinates_are_refused() -> None:
    truth = history(1)
    ensemble = truth.expand_dims(member=3)
    for other in (truth[::-1], truth[1:], truth.assign_coords(lat=truth.lat + 1)):
        with pytest.raises(InputError, match=r"ensemble and truth have other coordinates"):
            crps(ensemble, other)


def test_units_of_which_no_conversion_is_known() -> None:
    with pytest.raises(UnitsError, match=r"convert the values, and say so: .assign_attrs\(units="):
        check_units(xr.DataArray(0.0, attrs={"units": "psu"}), "degC")


def test_what_is_scored_is_labelled() -> None:
    fields = history(1)
    for ensemble, truth in ((fields.values, fields), (fields.expand_dims(member=2), fields.values)):
        with pytest.raises(InputError, match="is a ndarray; expected an xarray.DataArray"):
            score_ensemble(ensemble, truth)  # type: ignore[arg-type]
