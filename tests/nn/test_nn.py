"""Networks over a domain's layers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apsgeo.domains import ImageDomain, LatLonDomain
from apsgeo.errors import InputError
from apsgeo.nn.unet import SIZES, FourierEmbedding, UNet, _Modulation, _ResidualBlock
from tests.cases import alike, seed_weights, seeded

GLOBAL = LatLonDomain(np.linspace(90, -90, 13), np.arange(0, 360, 15.0))
REGIONAL = LatLonDomain(np.arange(30.0, 60.0, 3.0), np.arange(0.0, 36.0, 3.0))
LARGE = ImageDomain(64, 64)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(0))


def scrambled(network: nn.Module) -> nn.Module:
    """Give every parameter, also those that start at zero, a value that matters."""
    generator = seeded(1)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


@pytest.mark.parametrize("domain", [GLOBAL, REGIONAL], ids=["global", "regional"])
@pytest.mark.parametrize("cond_dim", [0, 6])
def test_unet_starts_at_zero_and_is_rebuilt_from_its_config(
    domain: LatLonDomain, cond_dim: int
) -> None:
    unet = UNet(domain, 2, 3, width=8, depth=1, cond_dim=cond_dim)
    x = noise(4, 2, domain.num_nodes)
    cond = noise(4, cond_dim) if cond_dim else None
    assert torch.equal(unet(x, cond), torch.zeros(4, 3, domain.num_nodes))

    scrambled(unet)
    again = UNet(domain, **unet.config)
    again.load_state_dict(unet.state_dict())
    assert unet(x, cond).std() > 0.1
    alike(again(x, cond), unet(x, cond))


def test_unet_without_zero_init_starts_elsewhere_but_regardless_of_the_condition() -> None:
    unet = UNet(GLOBAL, 1, 1, width=8, cond_dim=2, zero_init=False)
    x, cond = noise(2, 1, GLOBAL.num_nodes), noise(2, 2)
    assert unet(x, cond).std() > 0.01
    alike(unet(x, cond), unet(x, 0 * cond))


@pytest.mark.parametrize(("size", "millions"), list(zip(SIZES, (0.3, 1, 3, 10, 30), strict=True)))
def test_sizes_are_what_they_say(size: str, millions: float) -> None:
    width, depth = SIZES[size]
    unet = UNet(LARGE, 2, 1, width=width, depth=depth, cond_dim=64)
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(1e6 * millions, rel=0.15)


def test_static_fields_are_seen_and_kept() -> None:
    static = noise(2, GLOBAL.num_nodes)
    unet = UNet(GLOBAL, 1, 1, width=8, depth=1, static=static)
    scrambled(unet)
    again = UNet(GLOBAL, **unet.config)
    again.load_state_dict(unet.state_dict())
    x = noise(2, 1, GLOBAL.num_nodes)
    alike(again(x), unet(x))
    again.static[1, 40] += 1.0
    changed = (again(x) - unet(x)).detach().abs().amax((0, 1))
    assert float(changed[40]) > 1e-3
    assert "static" not in UNet(GLOBAL, 1, 1, width=8).state_dict()  # as before there were any


def test_unet_treats_the_records_of_a_batch_independently() -> None:
    unet = scrambled(UNet(GLOBAL, 2, 1, width=8, cond_dim=3)).double()
    x, cond = noise(5, 2, GLOBAL.num_nodes).double(), noise(5, 3).double()
    together = unet(x, cond)
    for i in range(5):
        torch.testing.assert_close(
            unet(x[i : i + 1], cond[i : i + 1]), together[i : i + 1], atol=1e-11, rtol=1e-11
        )
    assert (unet(x, cond.flip(0)) - together).std() > 0.01, "the condition matters"


def test_modulation_is_group_norm_then_scale_and_shift_by_record() -> None:
    modulation = scrambled(_Modulation(12, 3)).double()
    x, cond = noise(5, 12, 40).double(), noise(5, 3).double()
    assert isinstance(modulation, _Modulation)
    assert modulation.film is not None
    scale, shift = modulation.film(cond).chunk(2, 1)
    expected = (
        F.group_norm(x, 4) * (modulation.scale + scale)[..., None]
        + (modulation.shift + shift)[..., None]
    )
    torch.testing.assert_close(modulation(x, cond), expected)


def test_a_residual_block_without_weights_is_the_identity() -> None:
    block = _ResidualBlock(GLOBAL, 8, 0)
    for parameter in block.conv.parameters():
        nn.init.zeros_(parameter)
    x = noise(2, 8, GLOBAL.num_nodes)
    torch.testing.assert_close(block(x, None), x, atol=0, rtol=0)


def test_unet_uses_the_whole_pyramid() -> None:
    """One node's value reaches every node, and every parameter has a gradient."""
    unet = scrambled(UNet(GLOBAL, 1, 1, width=8, depth=2, cond_dim=2))
    x = noise(2, 1, GLOBAL.num_nodes).requires_grad_()
    out = unet(x, noise(2, 2))
    (gradient,) = torch.autograd.grad(out[0, 0, 0], x, retain_graph=True)
    assert (gradient[0] != 0).all()
    assert (gradient[1] == 0).all()
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in unet.parameters())


def test_unet_commutes_with_rotation_in_longitude_but_for_the_features() -> None:
    unet = scrambled(UNet(GLOBAL, 1, 1, width=8, depth=2)).double()
    x = noise(2, 1, GLOBAL.num_nodes).double()

    def roll(x: Tensor) -> Tensor:
        return x.unflatten(-1, GLOBAL.shape).roll(4, -1).flatten(-2)

    assert (unet(roll(x)) - roll(unet(x))).abs().max() > 1e-3, "it knows where it is"
    unet.get_buffer("features").zero_()
    torch.testing.assert_close(unet(roll(x)), roll(unet(x)), atol=1e-12, rtol=1e-12)


def test_unet_coarsens_so_many_times_or_as_often_as_the_domain_can() -> None:
    """10 x 12 cells, 5 x 6, 3 x 3: each level but the finest has four blocks."""
    for depth, blocks in ((0, 2), (1, 6), (2, 10), (9, 10)):
        unet = UNet(REGIONAL, 1, 1, width=8, depth=depth)
        assert sum(isinstance(m, _ResidualBlock) for m in unet.modules()) == blocks


def test_training_lowers_the_loss() -> None:
    """A few steps learn a smoothing that needs neighbours: the mean over coarse cells."""
    seed_weights(0)
    unet = UNet(GLOBAL, 1, 1, width=8, depth=1)
    x = noise(8, 1, GLOBAL.num_nodes)
    target = GLOBAL.unpool()(GLOBAL.pool()(x))
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = (unet(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(target.square().mean().item(), rel=1e-6)
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("cond_dim", [0, 4])
def test_unet_refuses_a_missing_or_needless_condition(cond_dim: int) -> None:
    unet = UNet(GLOBAL, 1, 1, width=8, depth=1, cond_dim=cond_dim)
    x = noise(2, 1, GLOBAL.num_nodes)
    with pytest.raises(InputError, match=f"cond_dim={cond_dim}"):
        unet(x, None if cond_dim else noise(2, 4))


def test_fourier_embedding_tells_scalars_apart() -> None:
    embedding = FourierEmbedding(16).double()
    scalar = torch.linspace(-3, 3, 601, dtype=torch.float64)
    values = embedding(scalar)
    torch.testing.assert_close(values[:, 0], torch.sin(0.5 * scalar))
    torch.testing.assert_close(values[:, -1], torch.cos(64 * scalar))
    torch.testing.assert_close(values.square().sum(1), torch.full_like(scalar, 8.0))
    distance = torch.cdist(values, values) + 10 * torch.eye(601)
    assert distance.min() > 0.5, "neighbours a hundredth apart are distinct"


@pytest.mark.parametrize("dim", [0, 7, -2])
def test_fourier_embedding_refuses_odd_dimensions(dim: int) -> None:
    with pytest.raises(InputError, match="even"):
        FourierEmbedding(dim)
