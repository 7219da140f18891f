"""Networks, written once over the layers that a domain lends."""

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.nn.layers import Film, embed_condition, zero

__all__ = ["SIZES", "FourierEmbedding", "UNet"]

SIZES: dict[str, tuple[int, int]] = {
    "tiny": (16, 4),
    "small": (32, 4),
    "medium": (56, 4),
    "large": (96, 4),
    "huge": (176, 4),
}
"""Width and depth of a `UNet` of about 0.3, 1, 3, 10 and 30 million parameters.

Small domains are coarsened fewer times, and have fewer: 28 x 28 pixels 0.6 of these.
"""


class FourierEmbedding(nn.Module):
    """Embed a scalar of order one in sines and cosines.

    The angular frequencies are spaced geometrically from 1/2 to 64: the lowest tells apart values
    from -3 to 3, the highest resolves hundredths (Vaswani et al. 2017, *Attention is all you
    need*, section 3.5, with another range).

    Args:
        dim: Even number of features.

    Raises:
        InputError: If `dim` is odd or not positive.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise InputError(f"FourierEmbedding(dim={dim}): choose an even number from 2 on.")
        frequencies = torch.logspace(-1, 6, dim // 2, base=2)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, scalar: Tensor) -> Tensor:
        """Map `(B,)` to `(B, dim)`."""
        angle = scalar[:, None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], 1)


class _Modulation(Film):
    """Normalize groups of channels, then scale and shift each channel as `cond` says.

    Group normalization (Wu & He 2018) with FiLM in its affine part.
    """

    def __init__(self, channels: int, cond_dim: int) -> None:
        super().__init__(channels, cond_dim)
        self.groups = math.gcd(channels, 8)

    def forward(self, x: Tensor, cond: Tensor | None) -> Tensor:
        if self.film is None or cond is None:
            return F.group_norm(x, self.groups, self.scale, self.shift)
        scale, shift = self.film(cond).chunk(2, dim=1)
        batch, channels, nodes = x.shape
        # the batch's channels as those of one record: then each record has an affine part of its
        # own inside the one normalization, which spares two passes over memory
        return F.group_norm(
            x.reshape(1, batch * channels, nodes),
            batch * self.groups,
            (self.scale + scale).flatten(),
            (self.shift + shift).flatten(),
        ).reshape(x.shape)


class _ResidualBlock(nn.Module):
    """Add to `x` a convolution of its normalized, modulated, activated values."""

    def __init__(self, domain: Domain, channels: int, cond_dim: int) -> None:
        super().__init__()
        self.modulation = _Modulation(channels, cond_dim)
        self.conv = domain.conv(channels, channels)

    def forward(self, x: Tensor, cond: Tensor | None) -> Tensor:
        return x + self.conv(F.silu(self.modulation(x, cond)))


class _Descent(nn.Module):
    """Go down to a coarser domain, and add what comes back from there.

    Channels change by pointwise convolutions, on the coarse domain where they are cheap.
    """

    def __init__(
        self, domain: Domain, channels: int, inner: nn.Module, inner_channels: int
    ) -> None:
        super().__init__()
        coarse = domain.coarse()
        self.pool, self.unpool = domain.pool(), domain.unpool()
        self.widen = coarse.conv(channels, inner_channels, kernel_size=1)
        self.narrow = coarse.conv(inner_channels, channels, kernel_size=1)
        self.inner = inner

    def forward(self, x: Tensor, cond: Tensor | None) -> Tensor:
        inner = self.inner(self.widen(self.pool(x)), cond)
        return x + self.unpool(self.narrow(inner))


class _Sequence(nn.Module):
    """Apply modules of `(x, cond)` in turn."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, cond: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, cond)
        return x


class UNet(nn.Module):
    """Map signals to signals over a pyramid of ever coarser domains.

    Ronneberger, Fischer & Brox 2015, with sums for skip connections. Level `l` has
    `(1 + l / 2) width` channels. The finest level, which costs the most, has one residual block on
    the way down and one on the way up; coarser levels have two each. The domain's static features
    are appended to the input.

    Args:
        domain: The domain that input and output live on.
        in_channels: Number of channels in the input.
        out_channels: Number of channels in the output.
        width: Number of channels of the finest level.
        depth: Number of times that the domain is coarsened; fewer if it grows too small before.
        cond_dim: Length of the condition, or 0 for none.
        zero_init: Whether the output is zero before training.
        static: Further known fields (F, N) of order one, such as orography or a mask of land, which
            are appended like the domain's; or their number F, of a network that is to be loaded.
    """

    features: Tensor
    static: Tensor

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        depth: int = 3,
        cond_dim: int = 0,
        zero_init: bool = True,
        static: Tensor | int = 0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "width": width,
            "depth": depth,
            "cond_dim": cond_dim,
            "zero_init": zero_init,
        }
        if isinstance(static, int):
            static = torch.zeros(static, domain.num_nodes)
        if len(static):
            self.config["static"] = len(static)
        self.register_buffer("static", static.float(), persistent=len(static) > 0)
        self.register_buffer("features", domain.features, persistent=False)
        hidden = 2 * width if cond_dim else 0
        self.embed = nn.Sequential(nn.Linear(cond_dim, hidden), nn.SiLU()) if cond_dim else None
        known = len(domain.features) + len(static)
        self.stem = domain.conv(in_channels + known, width)
        self.body = _pyramid(domain, width, depth, hidden)
        self.head_modulation = _Modulation(width, hidden)
        self.head = domain.conv(width, out_channels)
        if zero_init:
            zero(self.head)

    @classmethod
    def sized(
        cls, domain: Domain, in_channels: int, out_channels: int, size: str, **options: Any
    ) -> Self:
        """Make a network of a size in `SIZES`."""
        width, depth = SIZES[size]
        return cls(domain, in_channels, out_channels, width=width, depth=depth, **options)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Map `x (B, in_channels, N)` and `cond (B, cond_dim)` to `(B, out_channels, N)`.

        Raises:
            InputError: If a condition is missing, or given to a network that was built without.
        """
        hidden = embed_condition("UNet", self.embed, cond, self.config["cond_dim"])
        known = torch.cat([self.features, self.static])
        features = known.to(x.dtype).expand(len(x), -1, -1)
        y = self.body(self.stem(torch.cat([x, features], 1)), hidden)
        return self.head(F.silu(self.head_modulation(y, hidden)))


def _pyramid(domain: Domain, width: int, depth: int, cond_dim: int, level: int = 0) -> nn.Module:
    """Build a level and all that lies below it."""

    def blocks() -> list[nn.Module]:
        return [_ResidualBlock(domain, channels, cond_dim) for _ in range(2 if level else 1)]

    channels = _channels(width, level)
    if level == depth or not domain.can_coarsen:
        return _Sequence(*blocks(), *blocks())
    below = _pyramid(domain.coarse(), width, depth, cond_dim, level + 1)
    descent = _Descent(domain, channels, below, _channels(width, level + 1))
    return _Sequence(*blocks(), descent, *blocks())


def _channels(width: int, level: int) -> int:
    return width + level * width // 2
