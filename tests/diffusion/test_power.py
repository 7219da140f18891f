"""The power of samples in bands of scales, and networks that have no say, against closed forms."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from apsgeo.diffusion.fit import train_diffusion
from apsgeo.diffusion.power import BandGain, band_edges
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.diffusion.samplers import DPMSolver
from apsgeo.domains import ImageDomain
from apsgeo.gaussian.dense import DensePrior
from apsgeo.nn.unet import UNet
from apsgeo.optim.training import Training
from tests.cases import seed_weights, seeded

DOMAIN = ImageDomain(20, 20)
EDGES = [0, *band_edges(100)]
VARIANCES = (9.0, 0.25)  # of the coefficients in each of two bands
FINER = 0.5


def basis() -> Tensor:
    found = DOMAIN.continuous_eigenbasis(100)
    assert found is not None
    return found[1] / found[1].norm(dim=0)


def variances() -> Tensor:
    sizes = torch.tensor(EDGES).diff()
    return torch.tensor(VARIANCES, dtype=torch.float64).repeat_interleave(sizes)


def exact_anchor() -> DensePrior:
    finer = FINER * torch.eye(DOMAIN.num_nodes, dtype=torch.float64)
    return DensePrior(DOMAIN, finer + (basis() * (variances() - FINER)) @ basis().T)


def gaussian(count: int, seed: int) -> Tensor:
    generator = seeded(seed)
    white = torch.randn(count, 1, DOMAIN.num_nodes, dtype=torch.float64, generator=generator)
    leading = white @ basis()
    factors = variances().sqrt() - FINER**0.5
    return (FINER**0.5 * white + (leading * factors) @ basis().T).float()


def powers(fields: Tensor) -> Tensor:
    square = (fields[:, 0].double() @ basis()).square().mean(0)
    return torch.stack([square[a:b].mean() for a, b in pairwise(EDGES)])


def fitted(anchor: Any = None, steps: int = 0) -> DiffusionPrior:
    seed_weights(0)
    network = UNet(DOMAIN, 1 if anchor is None else 2, 1, width=8, depth=0, cond_dim=64)
    prior = DiffusionPrior(DOMAIN, 1, network, anchor=anchor, levels=8)
    train_diffusion(prior, gaussian(300, 1), gaussian(64, 2), Training(steps=steps, progress=False))
    return prior


def test_bands_grow_and_hold_each_eigenfunction_once() -> None:
    assert band_edges(24) == []
    assert band_edges(25) == [25]
    assert band_edges(100) == [25, 100]
    assert band_edges(196) == [25, 70, 196]
    assert band_edges(1024)[-1] == 1024


def test_power_is_that_of_the_coefficients() -> None:
    fields = gaussian(200, 3)
    bands = BandGain(DOMAIN, 1)
    # the eigenfunctions are orthonormal by area, here one node each
    found = bands.power(fields).mean(0)[0].double()
    torch.testing.assert_close(found, powers(fields), rtol=1e-4, atol=0.0)


def test_gains_act_on_their_own_channel_and_band() -> None:
    bands, fields = BandGain(DOMAIN, 2), torch.cat([gaussian(5, 3), gaussian(5, 4)], 1)
    bands.gain.copy_(torch.tensor([[2.0, 1.0], [1.0, 0.5]]))
    ratio = bands.power(bands(fields)) / bands.power(fields)
    expected = torch.tensor([[4.0, 1.0], [1.0, 0.25]]).expand(5, -1, -1)
    torch.testing.assert_close(ratio, expected, rtol=1e-3, atol=0.0)
    rest = bands(fields) - fields
    coefficients = rest.double() @ basis()
    torch.testing.assert_close(coefficients @ basis().T, rest.double(), rtol=0.0, atol=1e-5)


def test_samples_get_the_power_of_the_data() -> None:
    """The plain form untrained draws white noise; the data have nine times and a quarter of it."""
    prior = fitted()
    sampler, generator = DPMSolver(30), seeded(5)
    expected = torch.tensor(VARIANCES, dtype=torch.float64)
    found = powers(sampler.sample(prior, 400, generator=generator)) / expected
    # of 400, 300 and 640 fields of at least 25 coefficients
    tolerance = 5.0 * (2.0 / 25.0 * (1 / 400 + 1 / 300 + 1 / 640)) ** 0.5
    assert float((found - 1.0).abs().max()) < tolerance < 0.15
    prior.gain = None
    without = powers(sampler.sample(prior, 400, generator=generator)) / expected
    assert float((without - 1.0).abs().min()) > 0.5


def test_gains_that_chance_explains_are_left_alone() -> None:
    bands = BandGain(DOMAIN, 1)
    bands.fit(gaussian(100, 1), gaussian(100, 2))
    tolerance = 5.0 * (2.0 / 25.0 * 2.0 / 100.0) ** 0.5
    assert float((bands.gain**2 - 1.0).abs().max()) < tolerance
    bands.fit(gaussian(100, 1), 1.01 * gaussian(100, 1))  # half a standard error of the first band
    assert float(bands.gain[0, 0]) == 1.0
    bands.fit(gaussian(100, 1), 2.0 * gaussian(100, 1))
    assert float((bands.gain / 2.0 - 1.0).abs().max()) < 0.01


def test_a_network_that_helps_by_chance_alone_has_no_say() -> None:
    prior = fitted(exact_anchor(), steps=30)
    log_snr = prior.log_snr[3].expand(8)
    x_t, _ = prior.perturb(gaussian(8, 7), log_snr)
    mean = prior.anchor_mean(x_t, log_snr)
    assert float(prior.correction(x_t, mean, log_snr).detach().abs().max()) == 0.0


@pytest.mark.same_bits
def test_saved_and_loaded_it_draws_alike() -> None:
    prior = fitted()
    config, tensors = prior.to_state()
    assert [name for name in tensors if "gain" in name] == ["gain.gain"]
    again = DiffusionPrior.from_state(json.loads(json.dumps(config)), tensors, DOMAIN)
    drawn, same = (DPMSolver(5).sample(each, 3, generator=seeded(8)) for each in (prior, again))
    assert torch.equal(drawn, same)


def test_a_domain_of_few_nodes_has_no_bands() -> None:
    few = ImageDomain(6, 6)
    network = UNet(few, 1, 1, width=8, depth=0, cond_dim=64)
    prior = DiffusionPrior(few, 1, network)
    assert prior.with_gain() is None
