"""Priors that others trained, against closed forms and against their own libraries."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apsgeo.diffusion.analytic import AnalyticDiffusion
from apsgeo.diffusion.pretrained import _CLEAN, FunctionSchedule, from_azula, from_diffusers
from apsgeo.diffusion.samplers import Heun
from apsgeo.diffusion.schedule import VPSchedule
from apsgeo.domains import ImageDomain
from apsgeo.errors import InputError, ModelError
from apsgeo.gaussian.low_rank import LowRankPrior
from tests.cases import seed_weights, seeded

DOMAIN = ImageDomain(2, 3)


def gaussian() -> LowRankPrior:
    loadings = 0.8 * torch.randn(1, 6, 3, generator=seeded(1), dtype=torch.float64)
    return LowRankPrior(DOMAIN, loadings, 0.4)


def cosine(t: Tensor) -> tuple[Tensor, Tensor]:
    """A schedule whose alpha^2 + sigma^2 is not one, as azula has them."""
    alpha = torch.cos(t * math.acos(0.01))
    return alpha, torch.sqrt(1 - alpha**2 + 0.01**2)


class Posterior(NamedTuple):
    mean: Tensor


class Exact(nn.Module):
    """What azula's GaussianDenoiser is, on images (batch, 1, 2, 3), by a dense inverse."""

    def __init__(self, schedule: Callable[[Tensor], tuple[Tensor, Tensor]] = cosine) -> None:
        super().__init__()
        self.schedule = schedule
        self.covariance = torch.from_numpy(gaussian().covariance(np.arange(6), np.arange(6)))

    def forward(self, x_t: Tensor, t: Tensor) -> Posterior:
        alpha, sigma = (scale[:, None, None].double() for scale in self.schedule(t))
        total = alpha**2 * self.covariance + sigma**2 * torch.eye(6)
        flat = x_t.double().reshape(-1, 6, 1)
        mean = alpha * self.covariance @ torch.linalg.solve(total, flat)
        return Posterior(mean.reshape(x_t.shape))


def test_a_schedule_that_is_a_function_is_inverted_and_differentiated() -> None:
    given = FunctionSchedule(cosine, 0.01, 0.9)
    vp = FunctionSchedule(lambda t: (VP.alpha(t), VP.sigma(t)), 0.01, 0.9)
    t = torch.linspace(0.01, 0.9, 12, dtype=torch.float64)
    assert torch.allclose(given.time_of_snr(given.snr(t)), t, rtol=1e-10)
    alpha, sigma = cosine(t)
    found = given.alpha_sigma(2 * torch.log(alpha / sigma))
    assert torch.allclose(found[0], alpha)
    assert torch.allclose(found[1], sigma)
    assert torch.allclose(vp.rate(t), VP.rate(t))
    assert torch.allclose(vp.log_snr(t), VP.log_snr(t))
    assert (given.eps, given.T) == (0.01, 0.9)
    with pytest.raises(InputError, match="does not fall"):
        FunctionSchedule(lambda t: (t, 1 - t), 0.1, 0.9)
    with pytest.raises(InputError, match="does not fall"):
        FunctionSchedule(lambda t: (1 - t, t), 0.0, 0.9)
    with pytest.raises(ModelError, match="not saved here"):
        given.to_config()


VP = VPSchedule()


@pytest.mark.parametrize("kind", _CLEAN)
def test_what_networks_predict_is_turned_into_the_clean_signal(kind: str) -> None:
    denoiser, t = AnalyticDiffusion(gaussian(), VP), torch.tensor([0.01, 0.4, 1.0]).double()
    x_t = torch.randn(3, 1, 6, generator=seeded(2), dtype=torch.float64)
    views = {"epsilon": denoiser.predict_noise, "v_prediction": denoiser.predict_velocity}
    clean = denoiser.predict(x_t, t)
    predicted = views[kind](x_t, t) if kind in views else clean
    alpha, sigma = (f(t)[:, None, None] for f in (VP.alpha, VP.sigma))
    assert torch.allclose(_CLEAN[kind](x_t, predicted, alpha, sigma), clean)


def test_a_denoiser_of_azulas_kind_has_our_samplers_and_log_densities() -> None:
    prior, exact = from_azula(Exact(), DOMAIN, 1), gaussian()
    same = AnalyticDiffusion(exact, prior.schedule)
    x = exact.sample(3, seeded(3)).double()
    times = torch.tensor([0.0, 0.3, 1.0]).double()
    assert torch.allclose(prior.predict(x, times), same.predict(x, times), rtol=1e-8)
    one, other = (Heun(6).sample(p, 4, generator=seeded(4), like=x) for p in (prior, same))
    assert torch.allclose(one, other, rtol=1e-6)
    # The ends: noise of 0.01 to 1e-4 of the variance at most, and a signal of 1e-4 of the noise's.
    found = prior.estimate_log_prob(x, method="ode", tolerance=1e-6).value
    assert torch.allclose(found, exact.log_prob(x), atol=5e-3)
    one, other = (p.estimate_log_prob(x, generator=seeded(5)).value for p in (prior, same))
    assert torch.allclose(one, other, rtol=1e-8)


def test_azula_itself() -> None:
    denoise, noise = pytest.importorskip("azula.denoise"), pytest.importorskip("azula.noise")
    covariance = pytest.importorskip("azula.linalg.covariance")
    schedule = noise.CosineSchedule()
    theirs = denoise.GaussianDenoiser(
        torch.zeros(1, 2, 3), covariance.IsotropicCovariance(torch.tensor(2.0)), schedule
    )

    class Timed(nn.Module):
        """Of azula's denoisers, the Gaussian one alone takes one time for all."""

        def __init__(self) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x_t: Tensor, t: Tensor) -> Posterior:
            each = [theirs(x[None], time).mean for x, time in zip(x_t, t, strict=True)]
            return Posterior(torch.cat(each))

    prior = from_azula(Timed(), DOMAIN, 1)
    x = torch.randn(3, 1, 6, generator=seeded(6))
    truth = torch.distributions.Normal(0.0, math.sqrt(2.0)).log_prob(x).flatten(1).sum(1)
    found = prior.estimate_log_prob(x, method="ode", tolerance=1e-5).value
    assert torch.allclose(found.float(), truth, atol=2e-2)
    backbone = nn.Module()
    backbone.weight = nn.Parameter(torch.zeros(()))
    backbone.forward = lambda x_t, t: 0.1 * x_t
    karras = from_azula(denoise.KarrasDenoiser(backbone, schedule), DOMAIN, 1)
    time = torch.tensor([0.2, 0.5, 0.8])
    own = denoise.KarrasDenoiser(backbone, schedule)(x.reshape(3, 1, 2, 3), time).mean
    assert torch.allclose(karras.predict(x, time), own.flatten(2), rtol=1e-4, atol=1e-5)


def pipeline(folder: Path, **scheduler: Any) -> Any:
    diffusers = pytest.importorskip("diffusers")
    seed_weights(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    steps = diffusers.DDPMScheduler(clip_sample=False, **scheduler)
    unet.save_pretrained(folder / "unet")
    steps.save_pretrained(folder / "scheduler")
    return unet.eval(), steps


@pytest.mark.parametrize("predicted", _CLEAN)
def test_a_unet_of_diffusers_denoises_as_its_scheduler_does(tmp_path: Path, predicted: str) -> None:
    unet, steps = pipeline(tmp_path, prediction_type=predicted)
    prior = from_diffusers(tmp_path)
    assert prior.domain == ImageDomain(8, 8)
    x_t = torch.randn(1, 1, 8, 8, generator=seeded(7))
    for step in (0, 431, 999):
        with torch.no_grad():
            out = unet(x_t, step).sample
            found = prior.predict(x_t.flatten(2), float(step))
        theirs = steps.step(out, step, x_t).pred_original_sample
        scale = float(theirs.abs().max())
        assert float((found - theirs.flatten(2)).abs().max()) < 1e-4 * scale
    share = steps.alphas_cumprod.double()
    assert float(prior.schedule.alpha(431.0)) == pytest.approx(float(share[431].sqrt()), rel=1e-6)
    drawn = Heun(3).sample(prior, 2, generator=seeded(8))
    assert drawn.shape == (2, 1, 64)
    assert bool(torch.isfinite(drawn).all())


def test_folders_that_are_not_such_models_are_refused(tmp_path: Path) -> None:
    pipeline(tmp_path / "whole")
    weights = tmp_path / "whole" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))  # where pickled weights would be
    with pytest.raises(ModelError, match="safetensors"):
        from_diffusers(tmp_path / "whole")
    with pytest.raises(ModelError, match="safetensors"):
        from_diffusers(tmp_path / "nothing")


def test_without_diffusers_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match="with the extra 'pretrained'"):
        from_diffusers(tmp_path)
