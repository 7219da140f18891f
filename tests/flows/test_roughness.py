"""Details of a base's mean: on a ring, where smoothing has known eigenvalues, and on any domain."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import apsgeo
from apsgeo.domains import Domain, GraphDomain, HEALPixDomain, ImageDomain, LatLonDomain
from apsgeo.errors import InputError
from apsgeo.flows.roughness import Roughness
from apsgeo.posterior import Posterior
from tests.cases import numpy_seeded, seeded

NODES, WAVES = 24, 3


def ring() -> GraphDomain:
    angle = np.arange(NODES) * 2.0 * np.pi / NODES
    source = np.arange(NODES)
    edges = np.stack([source, (source + 1) % NODES])
    return GraphDomain(np.stack([np.cos(angle), np.sin(angle)], 1), edges)


def test_a_wave_on_a_ring_has_the_details_of_its_eigenvalue() -> None:
    domain = ring()
    angle = torch.arange(NODES, dtype=torch.float64) * 2.0 * math.pi * WAVES / NODES
    wave = torch.cos(angle)[None, None]
    spread = torch.full_like(wave, 0.5)
    found = Roughness(domain, 2)(wave, spread)
    kept = 0.5 + 0.5 * math.cos(2.0 * math.pi * WAVES / NODES)  # of a wave, by one smoothing
    detail = (1.0 - kept) * wave / spread, kept * (1.0 - kept**4) * wave / spread
    torch.testing.assert_close(found[:, 0::2], torch.asinh(4.0 * torch.cat(detail, 1)))
    # Its square is a constant and a wave of twice the number, of its own eigenvalue.
    twice = torch.cos(2.0 * angle)
    factor = 0.5 + 0.5 * math.cos(4.0 * math.pi * WAVES / NODES)
    square = 0.5 * ((1.0 - kept) / 0.5) ** 2 * (1.0 + factor * twice)
    torch.testing.assert_close(found[0, 1], 0.5 * (square + 1e-4).log() + 2.0)


DOMAINS = {
    "image": ImageDomain(8, 8),
    "healpix": HEALPixDomain(4),
    "latlon": LatLonDomain(np.linspace(80, -80, 5), np.arange(0, 360, 60.0)),
    "ring": ring(),
    "one isolated": GraphDomain(np.eye(3), np.array([[0], [1]]), areas=np.ones(3)),
}


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
def test_a_constant_has_no_details_and_units_do_not_matter(domain: Domain) -> None:
    roughness = Roughness(domain, 3)
    constant = torch.full((1, 2, domain.num_nodes), 7.0, dtype=torch.float64)
    found = roughness(constant, torch.ones_like(constant))
    assert found.shape == (1, 2 * roughness.features, domain.num_nodes)
    floor = 0.5 * math.log(1e-4) + 2.0
    torch.testing.assert_close(found[:, 2:4], torch.full_like(constant, floor))
    torch.testing.assert_close(found[:, :2], torch.zeros_like(constant), rtol=0.0, atol=1e-12)
    generator = seeded(0)
    field = torch.randn(constant.shape, generator=generator, dtype=constant.dtype)
    spread = 1.0 + torch.rand(constant.shape, generator=generator, dtype=constant.dtype)
    other = roughness(100.0 * field, 100.0 * spread)
    torch.testing.assert_close(other, roughness(field, spread), rtol=1e-10, atol=1e-10)


@pytest.mark.same_bits
def test_a_flow_sees_the_roughness_and_is_saved_with_it(tmp_path: Path) -> None:
    noise = numpy_seeded(0).standard_normal((200, 8, 8), dtype="f4")
    history = xr.DataArray(noise, dims=("sample", "y", "x"), name="field")
    prior = apsgeo.fit_prior(history, training=apsgeo.Training(steps=0, progress=False), rank=10)
    y = torch.from_numpy(noise[:2].reshape(2, 1, -1)).clone()
    y[..., ::2] = torch.nan
    seen = []
    for octaves in (0, 2):
        posterior = apsgeo.distill(
            prior,
            apsgeo.Mask(0.3, 0.5),
            0.1,
            spec=apsgeo.CouplingSpec(width=8, depth=1, context=4, patterns=0, roughness=octaves),
            training=apsgeo.Training(steps=5, progress=False),
            rounds=1,
        )
        drawn = posterior(y).members(3, 0)
        loaded = Posterior.load(posterior.save(tmp_path / str(octaves)))
        torch.testing.assert_close(loaded(y).members(3, 0), drawn)
        stem = [v for k, v in posterior.flow.state_dict().items() if "stem" in k and v.ndim > 1]
        seen.append(stem[0].shape[1])
    assert seen[1] == seen[0] + 4


def test_a_negative_number_of_octaves_is_refused() -> None:
    with pytest.raises(InputError, match="roughness=-1"):
        apsgeo.CouplingSpec(roughness=-1)
