"""The recalibration of a trained denoiser in bands of scales, against closed forms."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from apsgeo.domains import ImageDomain
from apsgeo.nn import UNet
from apsgeo.priors.dense import DensePrior
from apsgeo.priors.diffusion import DiffusionPrior
from apsgeo.priors.diffusion_fit import train_diffusion
from apsgeo.priors.recalibration import BandRecalibration, band_edges
from apsgeo.priors.samplers import DPMSolver

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
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, 1, DOMAIN.num_nodes, dtype=torch.float64, generator=generator)
    leading = white @ basis()
    factors = variances().sqrt() - FINER**0.5
    return (FINER**0.5 * white + (leading * factors) @ basis().T).float()


def powers(fields: Tensor) -> Tensor:
    square = (fields[:, 0].double() @ basis()).square().mean(0)
    return torch.stack([square[a:b].mean() for a, b in pairwise(EDGES)])


def fitted(anchor: Any = None, steps: int = 0, levels: int = 8) -> DiffusionPrior:
    torch.manual_seed(0)
    network = UNet(DOMAIN, 1 if anchor is None else 2, 1, width=8, depth=0, cond_dim=64)
    prior = DiffusionPrior(DOMAIN, 1, network, anchor=anchor, levels=levels)
    train_diffusion(prior, gaussian(300, 1), gaussian(64, 2), steps=steps, progress=False)
    return prior


def test_bands_grow_and_hold_each_eigenfunction_once() -> None:
    assert band_edges(24) == []
    assert band_edges(25) == [25]
    assert band_edges(100) == [25, 100]
    assert band_edges(196) == [25, 70, 196]
    assert band_edges(1024)[-1] == 1024


def test_the_denoiser_of_the_standard_normal_becomes_that_of_the_data() -> None:
    prior = fitted()
    assert prior.recalibration is not None
    # least squares on 160 fields of at least 25 coefficients each, over all levels
    tolerance = 5.0 / (160 * 25) ** 0.5
    x, generator = gaussian(40, 3), torch.Generator().manual_seed(4)
    kept = variances()
    for log_snr in prior.log_snr[2:6]:
        each = log_snr.expand(len(x))
        x_t, _ = prior.perturb(x, each, generator)
        found = prior.anchor_mean(x_t, each)
        with torch.no_grad():
            found = found + prior.correction(x_t, found, each)
        clean = x_t[:, 0].double() / float(prior.scales(log_snr[None], x_t)[0])
        coefficients = (clean @ basis()) * kept / (kept + float(torch.exp(-log_snr)))
        error = found[:, 0].double() @ basis() - coefficients
        assert float(error.norm() / coefficients.norm()) < tolerance


def test_samples_get_the_power_of_the_data() -> None:
    prior = fitted(levels=24)
    generator = torch.Generator().manual_seed(5)
    sampler = DPMSolver(60)
    # errors of 400 fields of 25 coefficients, of the weights, and of D between levels
    expected = torch.tensor(VARIANCES, dtype=torch.float64)
    found = powers(sampler.sample(prior, 400, generator=generator)) / expected
    assert float((found - 1.0).abs().max()) < 0.12
    prior.recalibration = None
    without = powers(sampler.sample(prior, 400, generator=generator)) / expected
    assert float((without - 1.0).abs().min()) > 0.5


def test_an_exact_anchor_is_left_alone() -> None:
    anchor = exact_anchor()
    prior = fitted(anchor)
    assert prior.recalibration is not None
    assert float(prior.recalibration.weights.abs().max()) == 0.0
    x = gaussian(4, 6)
    t = float(prior.schedule.time_of_snr(torch.exp(prior.log_snr[4])))
    clean = x / float(prior.schedule.alpha(torch.tensor(t)))
    torch.testing.assert_close(
        prior.denoise(x, t), anchor.denoise(clean, prior.noise_std[4]), rtol=1e-4, atol=1e-5
    )


def test_a_network_that_helps_by_chance_alone_has_no_say() -> None:
    prior = fitted(exact_anchor(), steps=30)
    log_snr = prior.log_snr[3].expand(8)
    x_t, _ = prior.perturb(gaussian(8, 7), log_snr)
    mean = prior.anchor_mean(x_t, log_snr)
    assert float(prior.correction(x_t, mean, log_snr).detach().abs().max()) == 0.0


def test_saved_and_loaded_it_denoises_alike() -> None:
    prior = fitted()
    config, tensors = prior.to_state()
    assert [name for name in tensors if "recalibration" in name] == ["recalibration.weights"]
    again = DiffusionPrior.from_state(json.loads(json.dumps(config)), tensors, DOMAIN)
    x = gaussian(3, 8)
    assert torch.equal(prior.denoise(x, 0.2), again.denoise(x, 0.2))


def test_a_domain_of_few_nodes_has_no_bands() -> None:
    few = ImageDomain(6, 6)
    network = UNet(few, 1, 1, width=8, depth=0, cond_dim=64)
    prior = DiffusionPrior(few, 1, network)
    assert prior.recalibrated() is None


def test_channels_are_recalibrated_each_for_itself() -> None:
    bands = BandRecalibration(DOMAIN, 2, 3)
    gram, generator = bands.gram(), torch.Generator().manual_seed(9)
    shape = (60, 2, DOMAIN.num_nodes)
    change, residual, mean = (torch.randn(shape, generator=generator) for _ in range(3))
    wanted = torch.tensor([[0.5, -0.2, 0.1], [0.0, 0.3, -0.4]])
    terms = torch.stack([change, residual, mean], -1)
    gram.add(change, residual, mean, (terms * wanted[None, :, None]).sum(-1))
    found = gram.solve()
    for channel in range(2):
        for band in range(2):
            assert found[:, channel, band].tolist() == pytest.approx(
                wanted[channel].tolist(), abs=1e-5
            )
