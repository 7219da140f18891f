"""Symmetries of domains, and training on fields that they moved; mixed precision."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from apsgeo.diffusion.fit import train_diffusion
from apsgeo.diffusion.prior import COND_DIM, DiffusionPrior
from apsgeo.domains import (
    Domain,
    GraphDomain,
    HEALPixDomain,
    ImageDomain,
    LatLonDomain,
)
from apsgeo.domains.symmetry import Symmetry
from apsgeo.errors import InputError
from apsgeo.gaussian.scales import HybridScales
from apsgeo.nn.unet import UNet
from apsgeo.optim.training import Training
from apsgeo.prior import fit_prior
from tests.cases import numpy_seeded, seed_weights, seeded


def globe(rows: int, columns: int, start: float = 0.0) -> LatLonDomain:
    return LatLonDomain(np.linspace(90, -90, rows), start + np.arange(columns) * 360 / columns)


def cap() -> HEALPixDomain:
    """All pixels that are well in the north."""
    whole = HEALPixDomain(4)
    return HEALPixDomain(4, pixels=np.flatnonzero(whole.positions[:, 2].numpy() > 0.3))


SPHERE = ["east-west", "north-south"]
CASES: dict[str, tuple[Domain, list[str]]] = {
    "square": (ImageDomain(5, 5), ["left-right", "up-down", "transpose"]),
    "image": (ImageDomain(4, 6), ["left-right", "up-down"]),
    "uneven image": (ImageDomain(2, 3, None, [0.0, 1.0, 2.0, 4.0]), ["up-down"]),
    "globe": (globe(7, 8, 10.0), [*SPHERE, "turn"]),
    "odd globe": (globe(6, 5), [*SPHERE, "turn"]),
    "region": (LatLonDomain([10.0, 20.0, 30.0], [0.0, 5.0, 10.0]), ["east-west"]),
    "uneven globe": (LatLonDomain([-40.0, 10.0, 60.0], [0.0, 90.0, 250.0]), []),
    "healpix": (HEALPixDomain(4), ["quarter turn", *SPHERE]),
    "healpix ring": (HEALPixDomain(2, nest=False), ["quarter turn", *SPHERE]),
    "cap": (cap(), ["quarter turn", "east-west"]),
    "stations": (GraphDomain.from_latlon([0.0, 10.0, 50.0, 70.0], [0.0, 90.0, 50.0, 9.0], k=2), []),
}
cases = pytest.mark.parametrize(("domain", "names"), CASES.values(), ids=CASES)


@cases
def test_a_symmetry_moves_nodes_as_a_rigid_body_onto_nodes(
    domain: Domain, names: list[str]
) -> None:
    assert list(domain.symmetries) == names
    # not by a product of matrices, whose square root has half the digits
    exact = "donot_use_mm_for_euclid_dist"
    apart = torch.cdist(domain.positions, domain.positions, compute_mode=exact)
    for symmetry in domain.symmetries.values():
        places = symmetry.permutation
        assert sorted(places.tolist()) == list(range(domain.num_nodes))
        torch.testing.assert_close(apart[places][:, places], apart, rtol=0, atol=1e-13)
        torch.testing.assert_close(domain.areas[places], domain.areas, rtol=1e-9, atol=0)
        back = [torch.equal(symmetry.power(k), symmetry.power(0)) for k in range(symmetry.order)]
        assert back == [True] + [False] * (symmetry.order - 1)
        assert torch.equal(symmetry.power(symmetry.order), torch.arange(domain.num_nodes))


def test_a_renumbering_that_is_no_symmetry_is_found_out() -> None:
    domain = ImageDomain(3, 3)
    swapped = torch.arange(9)
    swapped[[0, 4]] = swapped[[4, 0]]
    geometry = domain.areas.numpy(), domain.stiffness
    assert not Symmetry(swapped, 2).keeps(*geometry)
    assert Symmetry(torch.arange(9), 1).keeps(*geometry)


def test_random_ones_are_the_whole_group_evenly() -> None:
    """The square's eight: each with chance 1/8, within five standard deviations."""
    generator, draws = seeded(0), 2000
    symmetries = ImageDomain(3, 3).symmetries
    counts = Counter(tuple(symmetries.draw(generator).tolist()) for _ in range(draws))  # type: ignore[union-attr]
    assert len(counts) == 8
    spread = (draws * 7 / 64) ** 0.5
    assert all(abs(count - draws / 8) < 5 * spread for count in counts.values())
    assert symmetries.only().draw(generator) is None


def test_those_of_some_names() -> None:
    symmetries = ImageDomain(3, 3).symmetries
    assert list(symmetries.only("up-down")) == ["up-down"]
    with pytest.raises(InputError, match="no symmetry 'turn'; the domain has: left-right, up-down"):
        symmetries.only("turn")


# Training

DOMAIN = ImageDomain(6, 6)


def skewed(count: int, seed: int) -> Tensor:
    """Rare large values: no anchor denoises them well."""
    rare = torch.rand(count, 1, 36, generator=seeded(seed)) < 0.1
    return (10.0 * rare - 1.0) / 3.0


def prior() -> DiffusionPrior:
    seed_weights(0)
    return DiffusionPrior(DOMAIN, 1, UNet(DOMAIN, 1, 1, width=8, cond_dim=COND_DIM), levels=4)


def train(trained: DiffusionPrior, **options: Any) -> list[dict[str, float]]:
    training = Training(24, batch=4, lr=1e-2, progress=False)
    return train_diffusion(trained, skewed(30, 1), skewed(30, 2), training, **options)


def test_training_sees_fields_that_were_moved() -> None:
    trained, seen = prior(), []
    perturb = trained.perturb

    def watched(x0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen.append(x0)
        return perturb(x0, *rest)

    trained.perturb = watched  # type: ignore[method-assign, assignment]
    train(trained, augment=DOMAIN.symmetries.only("left-right"))
    steps, fields = seen[trained.levels :], skewed(30, 1)  # the first are held-out cases
    mirrored = fields.reshape(30, 1, 6, 6).flip(-1).reshape(30, 1, 36)
    plain = [all(bool((fields == x).all((1, 2)).any()) for x in batch) for batch in steps]
    moved = [all(bool((mirrored == x).all((1, 2)).any()) for x in batch) for batch in steps]
    assert all(a != b for a, b in zip(plain, moved, strict=True))
    assert 4 <= sum(moved) <= 20  # of 24, a chance of one half
    assert all(torch.equal(x, fields[: len(x)]) is False for x in steps)


def test_symmetries_that_move_land_are_refused() -> None:
    values = numpy_seeded(0).standard_normal((30, 6, 6))
    values[:, :, 0] = np.nan
    history = xr.DataArray(values, dims=("sample", "y", "x"))
    options: dict[str, Any] = {"scales": HybridScales(), "anchor_scales": HybridScales()}
    options |= {"rank": 3, "folds": 2, "training": Training(steps=1, progress=False)}
    with pytest.raises(InputError, match="the symmetries left-right, transpose move nodes"):
        fit_prior(history, augment=DOMAIN.symmetries, **options)
    allowed = DOMAIN.symmetries.only("up-down")
    assert fit_prior(history, augment=allowed, **options).provenance["augment"] == ["up-down"]


@pytest.mark.parametrize(
    "domain",
    [DOMAIN, globe(7, 8), HEALPixDomain(2), CASES["stations"][0]],
    ids=["image", "globe", "healpix", "stations"],
)
def test_mixed_precision_is_nearly_the_same_and_keeps_weights_single(domain: Domain) -> None:
    generator = seeded(0)
    fields = torch.randn(12, 1, domain.num_nodes, generator=generator) ** 3 / 4
    losses = {}
    for precision in ("float32", "bfloat16"):
        seed_weights(0)
        network = UNet(domain, 1, 1, width=8, cond_dim=COND_DIM, zero_init=False)
        trained = DiffusionPrior(domain, 1, network, levels=4)
        log = train_diffusion(
            trained,
            fields,
            fields,
            Training(steps=3, validate_every=1, progress=False),
            precision=precision,
        )
        losses[precision] = [record["loss"] for record in log[1:4]]
        assert {p.dtype for p in trained.parameters()} == {torch.float32}
    single, mixed = (torch.tensor(losses[name]) for name in ("float32", "bfloat16"))
    assert not torch.equal(single, mixed)
    # eight bits of mantissa in each of some ten layers, and their mean over many values
    torch.testing.assert_close(mixed, single, rtol=10 * 2**-8, atol=0)
