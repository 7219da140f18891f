"""Properties of `impute` on masks, layouts, types, chunks and calendars of hypothesis."""

from __future__ import annotations

from functools import cache
from typing import Any

import cftime
import numpy as np
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import apsgeo
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from tests.cases import SHIFT, alike, history

MONTHS = 5
SHAPE = (MONTHS, 6, 10)
QUICK = settings(
    max_examples=12,
    deadline=None,
    derandomize=SHIFT == 0,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@cache
def months() -> xr.DataArray:
    return history(20)


@cache
def model() -> Posterior:
    scales = HybridScales(0.5, 3000.0, 0.05)
    options: Any = {"scales": scales, "anchor_scales": scales, "rank": 4, "steps": 0}
    prior = apsgeo.fit_prior(months(), memory=False, progress=False, **options)
    return Posterior.of(prior, VecchiaPrior(prior.anchor), Mask(), 0.3)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Masks with some cell of every month observed, and some cell not."""
    mask = draw(hnp.arrays(bool, SHAPE, elements=st.booleans()))
    mask[:, 0, 0], mask[:, -1, -1] = True, False
    return mask


def filled(obs: Any) -> np.ndarray:
    """Members (member, time, lat, lon), latitude from north to south and longitude from zero."""
    found = apsgeo.impute(obs, model(), 2).compute()
    found = found.assign_coords(lon=found.lon % 360).sortby("lon").sortby("lat", ascending=False)
    return found.transpose("member", "time", "lat", "lon").values.astype(np.float32)


@QUICK
@given(
    mask=masks(),
    dims=st.permutations(["time", "lat", "lon"]),
    southward=st.booleans(),
    start=st.integers(0, 9),
    order=st.sampled_from(["C", "F"]),
    dtype=st.sampled_from(["<f4", ">f4", "<f8", ">f8"]),
    chunks=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 10)) | st.none(),
)
def test_layout_changes_no_member(
    mask: np.ndarray,
    dims: list[str],
    southward: bool,
    start: int,
    order: Any,
    dtype: str,
    chunks: tuple[int, int, int] | None,
) -> None:
    obs = months()[:MONTHS].where(mask)
    expected = filled(obs)
    other = obs if southward else obs[:, ::-1]
    other = other.roll(lon=start, roll_coords=True).transpose(*dims)
    other = other.assign_coords(lon=(other.lon + 180) % 360 - 180)
    other = other.copy(data=np.asarray(other.values.astype(dtype), order=order))
    if chunks is not None:
        other = other.chunk(dict(zip(("time", "lat", "lon"), chunks, strict=True)))
    # blocks of other sizes add up in another order
    alike(filled(other), expected, 4000)


@QUICK
@given(mask=masks(), noise=st.sampled_from([0.01, 0.3, 3.0]))
def test_members_are_finite_and_near_exact_observations(mask: np.ndarray, noise: float) -> None:
    obs = months()[:MONTHS].where(mask)
    members = apsgeo.impute(obs, model(), 8, noise_std=noise).values
    assert np.isfinite(members).all()
    # a member is off an observation by the noise and by the spread, of which there is less
    away = np.abs(members - obs.values)[:, mask]
    assert away.max() < 8.0 * noise + 1.0


@QUICK
@given(
    mask=masks(),
    chosen=st.lists(st.integers(0, MONTHS - 1), min_size=1, max_size=MONTHS, unique=True),
    count=st.integers(1, 4),
)
def test_a_member_depends_on_its_record_alone(
    mask: np.ndarray, chosen: list[int], count: int
) -> None:
    obs = months()[:MONTHS].where(mask)
    whole = apsgeo.impute(obs, model(), 4).compute()
    some = apsgeo.impute(obs[sorted(chosen)], model(), count).compute()
    alike(some, whole[:count, sorted(chosen)], 4000)


@QUICK
@given(
    calendar=st.sampled_from(["noleap", "360_day", "julian", "all_leap", "proleptic_gregorian"]),
    year=st.integers(1, 9000),
    day=st.integers(1, 28),
    hour=st.integers(0, 23),
)
def test_months_are_those_of_the_calendar(calendar: str, year: int, day: int, hour: int) -> None:
    dates = [cftime.datetime(year, m, day, hour, calendar=calendar) for m in range(1, MONTHS + 1)]
    obs = months()[:MONTHS].where(months().lat > 0).assign_coords(time=dates)
    members = apsgeo.impute(obs, model(), 8)
    assert [each.month for each in members.time.values] == [*range(1, MONTHS + 1)]
    # where nothing is observed, members are about the normals of their month
    south = members.sel(lat=slice(-40, None)).mean(("member", "lat", "lon"))
    normals = model().normals.mean[:MONTHS, 0].reshape(SHAPE).numpy()[:, 4:].mean((1, 2))
    spread = model().normals.std.max().item()
    assert np.abs(south.values - normals).max() < 6 * spread
