"""The function-space network: one set of weights at every resolution."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from apsgeo.diffusion.fit import train_diffusion
from apsgeo.diffusion.function_space import FunctionSpacePrior
from apsgeo.diffusion.prior import COND_DIM
from apsgeo.diffusion.spec import DenoiserSpec, from_state
from apsgeo.domains import (
    Domain,
    GraphDomain,
    HEALPixDomain,
    ImageDomain,
    LatLonDomain,
    MeshDomain,
)
from apsgeo.domains.alignment import aligned
from apsgeo.errors import InputError
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.nn.function_space import FunctionSpaceNet
from apsgeo.nn.unet import SIZES
from apsgeo.optim.training import Training
from apsgeo.prior import FieldPrior, fit_prior
from tests.cases import alike, noise, numpy_seeded, seed_weights, seeded

NSIDES = {nside: HEALPixDomain(nside) for nside in (4, 8, 16, 32)}
DEGREES = torch.tensor([l for l in range(5) for _ in range(2 * l + 1)], dtype=torch.float64)
POWER = (1 + DEGREES) ** -2.0 / ((1 + DEGREES) ** -2.0).sum()
"""The variances of the harmonics of a smooth field, whose own is one on average."""


def unit_functions(domain: Domain, k: int = len(POWER)) -> Tensor:
    """Eigenfunctions (N, k) with mean squares of one."""
    basis = domain.continuous_eigenbasis(k)
    assert basis is not None
    return basis[1] * domain.areas.sum().sqrt()


def small_net(domain: Domain, **options: Any) -> FunctionSpaceNet:
    seed_weights(0)
    settings = {"width": 32, "modes": 16, "latents": 12, "layers": 1, "zero_init": False}
    return FunctionSpaceNet(domain, 1, 1, **(settings | options)).double()


def sheet(count: int) -> MeshDomain:
    """The unit square in `count` x `count` squares, each halved."""
    index = np.arange((count + 1) ** 2).reshape(count + 1, count + 1)
    a, b, c, d = (index[i : count + i, j : count + j].ravel() for i in (0, 1) for j in (0, 1))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    return MeshDomain(np.argwhere(index >= 0) / count, faces)


def waves(domain: Domain) -> Tensor:
    """Neumann eigenfunctions (N, 8) of the unit square, with mean squares of one.

    These are the first, but for the order in three degenerate pairs.
    """
    y, x = math.pi * domain.positions.T[:, :, None]
    i, j = torch.tensor([[0, 0, 1, 1, 0, 2, 1, 2], [0, 1, 0, 1, 2, 0, 2, 1]])
    norms = torch.where(i > 0, 2.0, 1.0).sqrt() * torch.where(j > 0, 2.0, 1.0).sqrt()
    return norms * torch.cos(i * y) * torch.cos(j * x)


def gram_error(domain: Domain, functions: Tensor) -> float:
    gram = functions.T @ (domain.areas[:, None] / domain.areas.sum() * functions)
    return float((gram - torch.eye(len(gram))).norm())


@pytest.mark.parametrize(
    "family",
    [
        [HEALPixDomain(4), HEALPixDomain(8, nest=False)],
        [LatLonDomain(np.linspace(90, -90, n + 1), np.arange(0, 360, 180 / n)) for n in (18, 36)],
        [ImageDomain(8 * n, 4 * n, np.linspace(0, 2, 8 * n + 1) ** 2) for n in (2, 4)],
    ],
    ids=["healpix", "latlon", "image"],
)
def test_continuous_eigenfunctions_are_orthonormal_up_to_the_quadrature(
    family: list[Domain],
) -> None:
    coarse, fine = (gram_error(domain, unit_functions(domain, 9)) for domain in family)
    assert coarse < 0.1
    assert fine < 0.3 * coarse, "the midpoint rule is of second order"


def test_continuous_eigenfunctions_of_an_image_are_its_own_but_for_the_sign() -> None:
    small, large = ImageDomain(12, 15), ImageDomain(36, 45)
    known = small.continuous_eigenbasis(20)
    assert known is not None
    overlap = small.eigenbasis(20)[1].T @ (small.areas[:, None] * known[1])
    torch.testing.assert_close(overlap.abs(), torch.eye(20).double(), atol=1e-12, rtol=0)
    # the centre of each pixel is that of every third one of three times as many
    again = unit_functions(large, 20).unflatten(0, large.shape)[1::3, 1::3].flatten(0, 1)
    torch.testing.assert_close(unit_functions(small, 20), again, atol=1e-12, rtol=0)


def test_regions_and_surfaces_have_no_closed_form() -> None:
    region = LatLonDomain(np.arange(30.0, 60.0, 3.0), np.arange(0.0, 36.0, 3.0))
    cap = LatLonDomain(np.arange(90.0, 59.0, -5.0), np.arange(0.0, 360.0, 30.0))
    for domain in (region, cap, sheet(3), HEALPixDomain(4, pixels=np.arange(50))):
        assert domain.continuous_eigenbasis(1) is None


def test_alignment_finds_any_rotation_of_the_eigenfunctions() -> None:
    domain = sheet(6)
    functions = domain.eigenbasis(10)[1] * domain.areas.sum().sqrt()
    rotated = functions @ torch.linalg.qr(noise(10, 10)).Q
    torch.testing.assert_close(aligned(rotated, domain, domain), rotated, atol=1e-9, rtol=0)


def test_aligned_eigenfunctions_are_those_of_the_surface() -> None:
    """Degenerate pairs keep their rotation; the error is that of the discrete Laplacian."""
    coarse = sheet(6)
    errors = []
    for fine in (sheet(9), sheet(18)):
        found = aligned(waves(coarse), coarse, fine)
        errors.append(float((found - waves(fine)).square().mean().sqrt()))
        assert gram_error(fine, found) < 1e-9
    assert errors[1] < errors[0] < 0.1


def test_alignment_refuses_other_surfaces() -> None:
    functions = sheet(6).eigenbasis(8)[1]
    moved = MeshDomain(sheet(6).positions.numpy() + 5.0, sheet(6).to_config()["faces"])
    with pytest.raises(InputError, match="least overlap is"):
        aligned(functions, sheet(6), moved)
    with pytest.raises(InputError, match="not of the kind"):
        aligned(functions, sheet(6), ImageDomain(6, 6))
    with pytest.raises(InputError, match="more nodes"):
        aligned(functions, sheet(6), sheet(1))


@pytest.mark.parametrize(("size", "millions"), list(zip(SIZES, (0.3, 1, 3, 10, 30), strict=True)))
def test_sizes_are_what_they_say_on_every_domain(size: str, millions: float) -> None:
    def count(domain: Domain) -> int:
        net = FunctionSpaceNet.sized(domain, 2, 1, size, cond_dim=COND_DIM)
        return sum(p.numel() for p in net.parameters())

    assert count(ImageDomain(30, 30)) == pytest.approx(1e6 * millions, rel=0.15)
    assert count(ImageDomain(30, 30)) == count(ImageDomain(50, 50)) == count(NSIDES[16])


def test_nodes_may_come_in_any_order() -> None:
    rng = numpy_seeded(3)
    points, areas = rng.random((60, 2)), np.linspace(0.5, 1.5, 60)
    order = rng.permutation(60)
    first, second = (GraphDomain(points[p], k=4, areas=areas[p]) for p in (np.arange(60), order))
    net = small_net(first)
    x = noise(2, 1, 60)
    torch.testing.assert_close(net.on(second)(x[..., order]), net(x)[..., order])


def test_a_state_holds_what_was_computed_and_nothing_that_is_known() -> None:
    closed, computed = small_net(NSIDES[4]), small_net(sheet(6))
    assert "functions" not in closed.state_dict()
    turned = computed.state_dict() | {"functions": -computed.functions}
    again = FunctionSpaceNet(sheet(6), **computed.config).double()
    again.load_state_dict(turned)
    assert torch.equal(again.functions, -computed.functions)
    sizes = [{n: p.shape for n, p in closed.on(d).named_parameters()} for d in NSIDES.values()]
    assert all(each == sizes[0] for each in sizes)


def _gradient(net: FunctionSpaceNet, x: Tensor, weights: Tensor) -> Tensor:
    """Return by how much each node's value counts in a weighted sum of what is read."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad((net.read(x)[0] * weights).sum(), x)[0]


def test_what_is_read_is_linear_and_white_noise_counts_by_the_number_of_nodes() -> None:
    """Noise of twice the standard deviation on four times the nodes gives the same variance."""
    total = []
    coarse = small_net(NSIDES[4])  # once: which of equally far places is taken, rounding decides
    for domain in (NSIDES[8], NSIDES[16], NSIDES[32]):
        net = coarse.on(domain)
        x, y = noise(2, 1, 1, domain.num_nodes)
        torch.testing.assert_close(net.read(3.0 * x + y), 3.0 * net.read(x) + net.read(y))
        rows = torch.stack([_gradient(net, x, noise(12, 32, seed=n)) for n in range(8)])
        total.append(float(rows.square().sum()) * domain.num_nodes)
    assert total[0] == pytest.approx(total[2], rel=0.1)
    assert abs(total[1] - total[2]) < 0.4 * abs(total[0] - total[2])


def test_cells_count_by_their_areas() -> None:
    """The rows of a grid crowd at the poles, and yet the same is read as from equal areas."""
    grid = LatLonDomain(np.linspace(90, -90, 49), np.arange(0, 360, 3.75))
    equal = small_net(NSIDES[32])
    uneven = small_net(grid)
    uneven.load_state_dict(equal.state_dict())
    first, second = (
        net.read((d.positions[:, 2] ** 2 + d.positions[:, 0])[None, None])
        for net, d in ((equal, NSIDES[32]), (uneven, grid))
    )
    assert float((first - second).norm() / first.norm().detach()) < 0.01


def test_outputs_converge_with_the_resolution() -> None:
    """What is done to a smooth function tends to one function, at second order of the spacing."""
    net, cond = small_net(NSIDES[4], cond_dim=3), noise(1, 3)
    found: dict[int, Tensor] = {}
    for nside, domain in NSIDES.items():
        x, y, z = domain.positions.T
        out = net.on(domain)((z**2 + x * y - 0.5 * x)[None, None], cond)[0, 0]
        found[nside] = unit_functions(domain, 16).T @ (domain.areas * out.detach())
    errors = [float((found[n] - found[32]).norm() / found[32].norm()) for n in (4, 8, 16)]
    assert errors[0] < 0.1
    assert errors[1] < 0.35 * errors[0]
    assert errors[2] < 0.35 * errors[1]


def test_other_surfaces_and_missing_fields_are_refused() -> None:
    net = small_net(ImageDomain(12, 16))
    assert net.on(ImageDomain(6, 8)).domain == ImageDomain(6, 8)
    with pytest.raises(InputError, match="same shape"):
        net.on(ImageDomain(12, 15))
    with pytest.raises(InputError, match="same surface"):
        net.on(NSIDES[4])
    with pytest.raises(InputError, match="1 static fields"):
        net.on(ImageDomain(6, 8), torch.zeros(1, 48))
    with pytest.raises(InputError, match="multiple of 16"):
        small_net(NSIDES[4], width=24)
    with pytest.raises(InputError, match="modes=193"):
        small_net(NSIDES[4], modes=193)
    with pytest.raises(InputError, match="cond_dim=0"):
        net(torch.zeros(1, 1, 192).double(), noise(1, 3))


def test_static_fields_are_seen_on_either_domain() -> None:
    static = noise(2, 192)
    net = small_net(NSIDES[4], static=static)
    again = net.on(NSIDES[4], static)
    x = noise(2, 1, 192)
    alike(again(x), net(x))
    assert float((net.on(NSIDES[4], 0 * static)(x) - net(x)).detach().std()) > 1e-3
    assert torch.equal(net.state_dict()["static"], static.float().double())


class Optimum(FunctionSpaceNet):
    """What makes a prior the posterior mean of a field of `POWER`, on nside 4.

    There the coefficients of the harmonics, means over the nodes, have noise of variance s^2 / 192.
    """

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        assert cond is not None
        var = torch.exp(-8.0 * torch.asin(cond[:, :1]))  # the lowest frequency of the embedding
        functions = self.functions.T
        coefficients = (1.0 + var).sqrt() * (x[:, 0] @ functions) / len(functions)
        smooth = (coefficients * POWER / (POWER + var / 192)) @ functions.T
        return torch.stack([smooth, torch.full_like(smooth, -50.0)], 1)


def fields(domain: Domain, count: int, seed: int) -> Tensor:
    """Draw fields (count, 1, N)."""
    return (noise(count, len(POWER), seed=seed) * POWER.sqrt() @ unit_functions(domain).T)[:, None]


def least_error(domain: Domain, noise_std: float) -> float:
    """The mean square error of the posterior mean, exactly."""
    root = unit_functions(domain) * POWER.sqrt()
    precision = torch.eye(len(POWER)) + root.T @ root / noise_std**2
    return float(torch.linalg.solve(precision, root.T).mul(root.T).sum(0).mean())


def error_of(prior: FunctionSpacePrior, noise_std: float, count: int = 200) -> float:
    x0 = fields(prior.domain, count, seed=7)
    level = torch.full((count,), -2.0 * math.log(noise_std), dtype=torch.float64)
    x_t, _ = prior.perturb(x0, level, seeded(8))
    with torch.no_grad():
        denoised = prior.predict(x_t, float(prior.schedule.time_of_snr(noise_std**-2.0)))
    return float((denoised - x0).square().mean())


@pytest.mark.parametrize("nside", [4, 8, 16])
@pytest.mark.parametrize("noise_std", [0.3, 1.0, 3.0])
def test_noise_per_node_means_the_same_at_every_resolution(nside: int, noise_std: float) -> None:
    """An optimal prior on nside 4 is optimal, for noise of that deviation at each node, on all."""
    net = Optimum(NSIDES[4], 1, 2, width=16, modes=len(POWER), latents=4, cond_dim=COND_DIM)
    prior = FunctionSpacePrior(NSIDES[4], 1, net.double(), levels=200).on(NSIDES[nside])
    best = least_error(NSIDES[nside], noise_std)
    # 200 records of 25 values each; where noise is strong few of them count
    assert error_of(prior, noise_std) == pytest.approx(best, rel=0.1)
    if nside == 16 and noise_std > 0.5:
        prior.trained_nodes = prior.domain.num_nodes
        assert error_of(prior, noise_std) > 1.5 * best, "without the equivalent level"


def low_rank(domain: Domain) -> LowRankPrior:
    return LowRankPrior(domain, (unit_functions(domain) * POWER.sqrt())[None], 0.1)


def built(anchor: LowRankPrior | None, levels: int = 4) -> FunctionSpacePrior:
    spec = DenoiserSpec(network="function-space", levels=levels)
    prior = spec.build(NSIDES[4], 1, anchor, torch.zeros(0, 192))
    assert isinstance(prior, FunctionSpacePrior)
    return prior


def test_the_anchor_is_that_of_the_new_resolution() -> None:
    anchors = {nside: low_rank(NSIDES[nside]) for nside in (4, 8)}
    prior = built(anchors[4], levels=5)
    fine = prior.on(NSIDES[8], anchors[8])
    level = fine.log_snr[2].expand(3)
    x_t, _ = fine.perturb(fields(NSIDES[8], 3, 0), level)
    t = float(fine.schedule.time_of_snr(torch.exp(level[0])))
    expected = anchors[8].denoise(x_t / float(fine.schedule.alpha(t)), fine.noise_std[2])
    torch.testing.assert_close(fine.predict(x_t, t), expected)
    with pytest.raises(InputError, match="an anchor"):
        prior.on(NSIDES[8])
    with pytest.raises(InputError, match="no anchor"):
        built(None).on(NSIDES[8], anchors[8])


def test_without_an_anchor_the_untrained_prior_is_the_denoiser_of_white_noise() -> None:
    prior = built(None)
    for domain in (NSIDES[4], NSIDES[8]):
        there, x_t = prior.on(domain), fields(domain, 2, 0)
        expected = there.anchor_mean(x_t, there.schedule.log_snr(0.3).expand(2))
        torch.testing.assert_close(there.predict(x_t, 0.3), expected)


@pytest.mark.same_bits
@pytest.mark.parametrize("with_anchor", [True, False])
def test_a_prior_elsewhere_is_saved_and_comes_back(with_anchor: bool) -> None:
    seed_weights(0)
    anchors = [low_rank(NSIDES[n]) if with_anchor else None for n in (4, 8)]
    prior = built(anchors[0])
    torch.nn.init.normal_(prior.network.get_parameter("head.weight"))
    prior.shrinkage.fill_(0.5)
    x = fields(NSIDES[4], 2, 0).float()
    fine = prior.on(NSIDES[8], anchors[1])
    assert torch.equal(fine.on(NSIDES[4], anchors[0]).predict(x, 0.2), prior.predict(x, 0.2))
    config, tensors = fine.to_state()
    again = from_state(json.loads(json.dumps(config)), tensors, NSIDES[8], anchors[1])
    assert isinstance(again, FunctionSpacePrior)
    x = fields(NSIDES[8], 2, 0).float()
    assert torch.equal(again.predict(x, 0.2), fine.predict(x, 0.2))
    assert float((fine.predict(x, 0.2) - x).std()) > 1e-3


@pytest.fixture(scope="module")
def trained() -> FunctionSpacePrior:
    """A prior of fields of `POWER`, learned on nside 4 in seconds."""
    seed_weights(0)
    sizes: dict[str, Any] = {
        "width": 32,
        "modes": 36,
        "latents": 64,
        "layers": 1,
        "cond_dim": COND_DIM,
    }
    prior = FunctionSpacePrior(NSIDES[4], 1, FunctionSpaceNet(NSIDES[4], 1, 2, **sizes), levels=8)
    history, held_out = (fields(NSIDES[4], n, seed).float() for n, seed in ((2000, 1), (50, 2)))
    training = Training(250, 24, 5e-3, ema_decay=0.95, validate_every=250, progress=False)
    train_diffusion(prior, history, held_out, training)
    return prior


@pytest.mark.parametrize("noise_std", [0.3, 1.0, 3.0])
def test_what_was_learned_serves_finer_grids(trained: FunctionSpacePrior, noise_std: float) -> None:
    """More nodes with noise of the same deviation tell more, and the prior makes use of it."""
    untrained = noise_std**2 / (1.0 + noise_std**2)
    errors = [error_of(trained.on(NSIDES[nside]), noise_std, 60) for nside in (4, 8, 16)]
    assert errors[0] < 0.8 * untrained
    chance = 5 * (2 / (60 * 36)) ** 0.5  # of mean squares over 60 fields of 36 modes
    assert max(errors[1:]) < (1 + chance) * errors[0]
    if noise_std == 3.0:
        assert errors[1] < least_error(NSIDES[4], noise_std), "the best that nside 4 allows"


def test_what_was_learned_is_sampled_and_rated_on_finer_grids(trained: FunctionSpacePrior) -> None:
    fine = trained.on(NSIDES[8])
    x = fields(NSIDES[8], 4, seed=9)
    likely = fine.elbo(x, samples=8, generator=seeded(0)).value
    shuffled = x[..., torch.randperm(768, generator=seeded(1))]
    assert bool((likely > fine.elbo(shuffled, samples=8, generator=seeded(0)).value).all())


def test_it_is_fitted_and_saved_like_any_other(tmp_path: Path) -> None:
    values = noise(30, 6, 6).cumsum(1).cumsum(2).numpy() ** 3
    history = xr.DataArray(values.astype("float32"), dims=("sample", "y", "x"), name="t")
    scales: Any = HybridScales()
    prior = fit_prior(
        history,
        scales=scales,
        anchor_scales=scales,
        rank=3,
        folds=2,
        spec=DenoiserSpec(network="function-space", levels=4),
        training=Training(steps=2, progress=False),
    )
    again = FieldPrior.load(prior.save(tmp_path / "prior"))
    assert isinstance(again.diffusion, FunctionSpacePrior)
    assert isinstance(prior.diffusion, FunctionSpacePrior)
    (config, state), (config_again, state_again) = (
        each.to_state() for each in (prior.diffusion, again.diffusion)
    )
    assert config_again == config
    assert all(torch.equal(state_again[name], state[name]) for name in state)
    assert prior.provenance["denoiser"]["network"] == "function-space"
    with pytest.raises(InputError, match="network='transformer'"):
        DenoiserSpec(network="transformer")  # type: ignore[arg-type]
