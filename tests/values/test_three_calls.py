"""fit_prior, distill and impute take values on a manifold, and give them back in their form."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial.transform import Rotation

import apsgeo
from apsgeo.errors import InputError, UnitsError
from apsgeo.labels.forms.reading import form_from_config, form_of
from apsgeo.measurement import ValuedNormals
from apsgeo.random_field.valued import Alone
from apsgeo.values.catalogue import manifold_of
from apsgeo.values.hyperbolic import Hyperbolic
from apsgeo.values.quotient import Rotations, quaternion_product
from apsgeo.values.spd import SPD
from apsgeo.values.sphere import Sphere
from apsgeo.values.values import Values
from tests.cases import alike, numpy_seeded
from tests.values.histories import around, labelled, waves

Fields = Any  # an array or a data set
SCALES = apsgeo.HybridScales(range_km=4000.0)
QUICK: dict[str, Any] = {
    "scales": SCALES,
    "anchor_scales": SCALES,
    "steps": 0,
    "progress": False,
    "memory": False,
}


def angles() -> Any:
    values = np.mod(350.0 + 30.0 * waves(1)[..., 0], 360.0)
    return labelled(values, units="degree", standard_name="wind_from_direction")


def winds() -> xr.Dataset:
    u, v = np.moveaxis(3.0 * waves(2) + 0.2, -1, 0)
    return xr.Dataset({"u": labelled(u, units="m s-1"), "v": labelled(v, units="m s-1")})


def directions() -> xr.DataArray:
    centre = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    return labelled(around(Sphere(2), centre, 0.4), "component", manifold="sphere")


def quaternions() -> xr.DataArray:
    centre = Rotations().project(torch.tensor([1.0, 2.0, 0.5, 0.1], dtype=torch.float64))
    points = around(Rotations("cubic"), centre, 0.12)
    # each of its 24 names by chance, as instruments give them
    images = Rotations("cubic").group[numpy_seeded(5).integers(0, 48, points.shape[:3])]
    given = labelled(np.einsum("...ij,...j->...i", images.numpy(), points), "component")
    return given.assign_coords(component=list("wxyz")).assign_attrs(manifold="rotations/cubic")


def matrices() -> xr.DataArray:
    centre = Rotations().project(torch.tensor([1.0, 0.2, 0.5, 0.1], dtype=torch.float64))
    points = around(Rotations(), centre, 0.3).reshape(-1, 4)
    turned = Rotation.from_quat(points[:, [1, 2, 3, 0]]).as_matrix()
    values = turned.reshape(30, 4, 6, 3, 3)
    return labelled(values, "row", "column", manifold="rotations")


def euler() -> Any:
    points = matrices().values.astype(float).reshape(-1, 3, 3)
    values = np.mod(Rotation.from_matrix(points).as_euler("ZXZ"), 2 * np.pi).reshape(30, 4, 6, 3)
    return labelled(values, "angle", manifold="rotations", convention="bunge", units="radian")


def tensors() -> xr.DataArray:
    space = SPD(3)
    points = around(space, space._flat(torch.eye(3, dtype=torch.float64) * 2.0), 0.3)
    whole = space._matrix(torch.from_numpy(points)).numpy()
    return labelled(whole, "i", "j", manifold="spd")


def six() -> xr.DataArray:
    whole = tensors().values
    parts = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    names = ["xx", "yy", "zz", "xy", "xz", "yz"]
    values = np.stack([whole[..., i, j] for i, j in parts], -1)
    return labelled(values, "component", manifold="spd").assign_coords(component=names)


def two_angles() -> xr.Dataset:
    hour = labelled(np.mod(1.0 + 2.0 * waves(1, 1)[..., 0], 24.0), units="hour", period=24.0)
    return xr.Dataset({"from": angles(), "hour": hour}, attrs={"manifold": "torus"})


def disc() -> xr.DataArray:
    centre = torch.tensor([0.3, -0.4], dtype=torch.float64)
    return labelled(around(Hyperbolic(2), centre, 0.4), "component", manifold="hyperbolic")


FORMS: dict[str, tuple[Any, Any]] = {
    "angle": (angles, None),
    "u and v": (winds, "circle"),
    "unit vectors": (directions, None),
    "quaternions": (quaternions, None),
    "rotation matrices": (matrices, None),
    "Euler angles": (euler, None),
    "tensors": (tensors, None),
    "six components": (six, None),
    "torus": (two_angles, None),
    "hyperbolic plane": (disc, None),
}
every = pytest.mark.parametrize("name", FORMS)


def given(name: str) -> tuple[Fields, Any]:
    make, manifold = FORMS[name]
    return make(), manifold


def gappy(fields: Fields, seed: int = 1) -> Fields:
    """Hide six places in ten of each record."""
    shape = (30, 4, 6)
    seen = xr.DataArray(numpy_seeded(seed).random(shape) < 0.4, dims=("record", "lat", "lon"))
    return fields.where(seen)


@every
def test_a_form_goes_back(name: str) -> None:
    fields, manifold = given(name)
    form = form_of(fields, manifold)
    assert form_from_config(form.to_config()) == form
    assert form.values is not None
    encoded = form.encode(fields, "the history")
    points = encoded.transpose(..., "channel").values
    assert points.shape == (30, 4, 6, form.values.manifold.ambient)
    back = form.decode(encoded, fields)
    assert isinstance(back, type(fields))
    again = form.encode(back, "members").transpose(..., "channel").values
    distance = form.values.manifold.distance(*(torch.from_numpy(each) for each in (points, again)))
    # eight digits of single precision, through the root of one minus a square
    assert float(distance.max()) < 2e-3 * min(form.values.manifold.cut, 1.0)
    if name != "u and v":
        assert {n: v.dims for n, v in _parts(back).items()} == {
            n: v.dims for n, v in _parts(fields).items()
        }


def _parts(fields: Fields) -> dict[Any, xr.DataArray]:
    if isinstance(fields, xr.Dataset):
        return dict(fields.data_vars)
    return {fields.name: fields}


@every
def test_members_have_the_form_of_the_observations(name: str, tmp_path: Path) -> None:
    fields, manifold = given(name)
    prior = apsgeo.fit_prior(fields, manifold=manifold, **QUICK)
    posterior = apsgeo.distill(
        prior, apsgeo.Mask(), noise_std=0.05, steps=1, rounds=1, progress=False
    )
    posterior.save(tmp_path / "model")
    obs = gappy(fields).isel(record=slice(0, 3))
    loaded: Any = apsgeo.load(tmp_path / "model")
    drawn = apsgeo.impute(obs, loaded, members=6)
    members = _parts(drawn)
    for part, own in _parts(obs).items():
        assert members[part].dims == ("member", *own.dims)
        assert members[part].dtype == np.float32
        xr.testing.assert_equal(
            members[part].drop_vars("member").coords.to_dataset(), own.coords.to_dataset()
        )
        assert not bool(members[part].isnull().any())
    # On the manifold, near to what was observed, and off where nothing was.
    space = prior.form.values
    assert space is not None
    points, truth = (
        torch.from_numpy(prior.form.encode(each, "it").transpose(..., "channel").values)
        for each in (drawn, fields.isel(record=slice(0, 3)))
    )
    if space.chart == "projected":
        truth = space.manifold.project(truth)
    assert float(space.manifold.off(points).max()) < 1e-3
    away = space.manifold.distance(truth, points).square().mean(0).sqrt().numpy()
    seen = ~np.isnan(prior.form.encode(obs, "it").isel(channel=0).values)
    assert away[seen].mean() < 0.7 * away[~seen].mean()
    again = apsgeo.impute(obs, posterior, members=6)
    for part in members:
        alike(_parts(again)[part].values, members[part].values, 4096)


def test_priors_are_saved_with_their_form(tmp_path: Path) -> None:
    prior = apsgeo.fit_prior(angles(), **QUICK)
    prior.save(tmp_path / "prior")
    loaded = apsgeo.FieldPrior.load(tmp_path / "prior")
    assert loaded.form == prior.form
    assert isinstance(loaded.normals, ValuedNormals)
    assert loaded.normals.described == prior.normals.described
    alike(loaded.encode(angles()), prior.encode(angles()))


def test_numbers_are_as_without_a_manifold() -> None:
    fields = labelled(5.0 + waves(1)[..., 0])
    plain = apsgeo.fit_prior(fields, **QUICK)
    valued = apsgeo.fit_prior(fields, manifold="euclidean", **QUICK)
    alike(valued.encode(fields), plain.encode(fields), 4096)
    obs = gappy(fields)
    members = [
        apsgeo.impute(
            obs,
            apsgeo.Posterior.of(prior, prior.anchor, apsgeo.Mask(), noise_std=0.1),
            members=3,
        )
        for prior in (plain, valued)
    ]
    alike(members[1].values, members[0].values, 65536)


def test_an_isometry_moves_members_alike() -> None:
    fields = labelled(
        around(Rotations(), torch.tensor([0.5, 0.5, -0.5, 0.5], dtype=torch.float64), 0.2),
        "component",
        manifold="rotations",
    )
    turn = torch.tensor([0.1, 0.7, -0.3, 0.64], dtype=torch.float64)
    turn = turn / turn.norm()

    def moved(array: Any) -> Any:
        return array.copy(data=quaternion_product(turn, torch.from_numpy(array.values).double()))

    drawn = []
    for history in (fields, moved(fields)):
        prior = apsgeo.fit_prior(history, **QUICK)
        posterior = apsgeo.Posterior.of(prior, prior.anchor, apsgeo.Mask(), noise_std=0.02)
        obs = gappy(history.astype(np.float32)).isel(record=slice(0, 2))
        drawn.append(apsgeo.impute(obs, posterior, members=4))
    expected, found = (torch.from_numpy(each.values) for each in (moved(drawn[0]), drawn[1]))
    assert float(Rotations().distance(expected.float(), found).max()) < 2e-3


def test_densities_are_of_the_volume() -> None:
    """The anchor's density of an angle integrates to one, but for what is beyond the cut."""
    fields = angles().isel(lat=[0], lon=[0])
    domain = apsgeo.GraphDomain.from_latlon(np.zeros(2), np.array([0.0, 1.0]), k=1)
    pair: Any = xr.concat([fields.isel(lat=0, lon=0, drop=True)] * 2, "node")
    noise = 2.0 * numpy_seeded(1).standard_normal(pair.shape)
    pair = (np.mod(pair + noise, 360.0)).transpose("record", "node").assign_attrs(fields.attrs)
    tangent = Values(manifold_of("circle"), "tangent")
    prior = apsgeo.fit_prior(pair, domain, manifold=tangent, **QUICK)
    posterior = apsgeo.Posterior.of(prior, prior.anchor, apsgeo.Mask(), noise_std=8.0)
    seen = prior.form.encode(pair, "it").isel(record=0).transpose("channel", "node").values.copy()
    seen[:, 1] = np.nan
    draws = posterior(torch.from_numpy(seen)[None].float())
    grid = torch.arange(0.0, 360.0, 1.5, dtype=torch.float64)
    one, other = torch.meshgrid(grid, grid, indexing="ij")
    both = torch.stack([one.flatten(), other.flatten()], -1).deg2rad()
    points = torch.stack([both.cos(), both.sin()], 1)[:, None].float()
    total = draws.log_prob(points).double().exp().sum() * 1.5**2
    assert float(total) == pytest.approx(1.0, abs=2e-3)
    assert float(draws.log_prob(points[:1]).detach()) < 0.0


def test_winds_from_everywhere_are_embedded() -> None:
    unit = winds() / np.hypot(winds().u, winds().v)
    assert "embedded" in apsgeo.fit_prior(unit, manifold="circle", **QUICK).normals.described
    assert "projected" in apsgeo.fit_prior(winds(), manifold="circle", **QUICK).normals.described
    assert "tangent" in apsgeo.fit_prior(angles(), **QUICK).normals.described
    posterior = apsgeo.Posterior.of(
        prior := apsgeo.fit_prior(unit, manifold="circle", **QUICK),
        prior.anchor,
        apsgeo.Mask(),
        noise_std=0.2,
    )
    y = prior.records(unit).values[:2]
    members = posterior(y).members(5, 0)
    alike(members.norm(dim=2), torch.ones(5, 2, 24))
    with pytest.raises(InputError, match="no density in closed form"):
        posterior(y).log_prob(members)


def test_bad_input_is_told() -> None:
    with pytest.raises(UnitsError, match="units of degrees, and all of its 720 values are within"):
        apsgeo.fit_prior(angles().copy(data=np.deg2rad(angles())), **QUICK)
    with pytest.raises(UnitsError, match="up to 3[56].* taken for radians"):
        apsgeo.fit_prior(angles().assign_attrs(units="radian"), **QUICK)
    prior = apsgeo.fit_prior(angles(), **QUICK)
    posterior = apsgeo.Posterior.of(prior, prior.anchor, apsgeo.Mask(), noise_std=5.0)
    radians = gappy(np.deg2rad(angles()).assign_attrs(units="radian"))
    with pytest.raises(UnitsError, match="obs has units 'radian', and 'degree' are expected"):
        apsgeo.impute(radians, posterior)
    with pytest.raises(InputError, match="convention 'bungee'"):
        form_of(euler().assign_attrs(convention="bungee"))
    with pytest.raises(InputError, match="convention None"):
        form_of(euler().drop_attrs(), "rotations")
    stretched = matrices() * xr.DataArray([1.0, 1.0, 1.2], dims="column")
    with pytest.raises(InputError, match=r"not rotations: R\^T R differs .* by up to 0.44"):
        apsgeo.fit_prior(stretched.assign_attrs(manifold="rotations"), **QUICK)
    mirrored = matrices() * xr.DataArray([1.0, 1.0, -1.0], dims="column")
    with pytest.raises(InputError, match="720 matrices mirror"):
        apsgeo.fit_prior(mirrored, manifold="rotations", **QUICK)
    shifted = tensors() - 3.0 * xr.DataArray(np.eye(3), dims=("i", "j"))
    with pytest.raises(InputError, match="not positive definite: its least eigenvalue is -"):
        apsgeo.fit_prior(shifted, manifold="spd", **QUICK)
    with pytest.raises(InputError, match="length differs from 1 by 1"):
        apsgeo.fit_prior(2.0 * directions(), manifold="sphere", **QUICK)
    with pytest.raises(InputError, match="bounds of a history of values on"):
        apsgeo.fit_prior(angles(), bounds=(0.0, 360.0), **QUICK)
    opposite = angles().copy(data=np.tile([[[10.0]], [[130.0]], [[250.0]]], (10, 4, 6)))
    seen = xr.ones_like(winds()["u"], bool)
    seen[3, 1, 2] = False
    for history in (angles().where(seen), winds().where(seen)):
        with pytest.raises(InputError, match="lacks values on circle.* at some records only"):
            apsgeo.fit_prior(history, manifold="circle", **QUICK)
    with pytest.raises(InputError, match="no mean at 24 places: they are balanced"):
        apsgeo.fit_prior(opposite, manifold=Values(manifold_of("circle"), "tangent"), **QUICK)
    with pytest.raises(InputError, match="without a period"):
        form_of(angles().assign_attrs(units="hour"), "circle")
    with pytest.raises(InputError, match="only possible at nodes"):
        apsgeo.distill(prior, apsgeo.GaussianBlur(4000.0), 0.1, steps=0, progress=False)


def test_angles_keep_their_range() -> None:
    """Members lie where the values did: above zero, or on both sides of it."""
    fields = labelled(30.0 * waves(1)[..., 0], units="degree", period=360.0)
    form = form_of(fields)
    back = form.decode(form.encode(fields, "it"), fields)
    assert isinstance(back, xr.DataArray)
    assert float(back.min()) < 0.0
    assert math.isclose(form.to_config()["low"], -180.0)  # type: ignore[index]
    axes = labelled(np.mod(20.0 * waves(1)[..., 0], 180.0), units="degree", period=180.0)
    assert form_of(axes).to_config()["period"] == 180.0  # type: ignore[index]


def test_one_gappy_field_needs_no_model() -> None:
    fields = winds().isel(record=0, drop=True)
    seen = xr.DataArray(numpy_seeded(2).random((4, 6)) < 0.7, dims=("lat", "lon"))
    drawn: Any = apsgeo.impute(fields.where(seen), members=3, noise_std=0.05, manifold="circle")
    assert drawn.u.dims == ("member", "lat", "lon")
    form = form_of(fields, "circle")
    points, truth = (
        torch.from_numpy(form.encode(each, "it").transpose(..., "channel").values)
        for each in (drawn, fields)
    )
    away = Sphere(1).distance(truth, points).mean(0).numpy()
    assert away[seen.values].mean() < 0.2
    with pytest.raises(InputError, match="statistics='mean' of values on"):
        apsgeo.impute(fields, statistics="mean", manifold="circle")
    with pytest.raises(InputError, match="fill it by apsgeo.impute"):
        apsgeo.fit_prior(fields.where(seen), manifold="circle", **QUICK)


@pytest.mark.parametrize("name", ["tensors", "quaternions", "unit vectors", "torus"])
def test_without_a_model_there_is_one_chart_for_all(name: str) -> None:
    fields, manifold = given(name)
    form = form_of(fields, manifold)
    assert form.values is not None
    encoded = form.encode(gappy(fields), "it")
    chart = Alone.of(form.values, encoded)
    numbers = chart.mapped(chart.encode, encoded)
    back = chart.mapped(chart.decode, numbers).transpose(..., "channel").values
    points = torch.from_numpy(encoded.transpose(..., "channel").values)
    known = ~points.isnan().any(-1)
    away = form.values.manifold.distance(points[known], torch.from_numpy(back)[known])
    assert float(away.max()) < 2e-3
    assert bool((~torch.from_numpy(numbers.values).isnan()).any())
