"""A network between functions, whose weights serve every resolution of a domain."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apsgeo.domains.alignment import aligned
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.nn.layers import Film, embed_condition, zero

__all__ = ["FunctionSpaceNet"]

_HEAD = 16  # channels of a head of attention
_SHARPNESS = (8.0, 24.0)  # logits of a place with itself, of the first head and of the last


class _Film(Film):
    """Scale and shift channels, which come last, as `cond` says."""

    def forward(self, x: Tensor, cond: Tensor | None) -> Tensor:
        """Map `x (B, M, channels)` and `cond (B, cond_dim)` to the shape of x."""
        if self.film is None or cond is None:
            return x * self.scale + self.shift
        scale, shift = self.film(cond)[:, None].chunk(2, dim=-1)
        return x * (self.scale + scale) + self.shift + shift


def _heads(x: Tensor) -> Tensor:
    """Split `(B, M, channels)` into heads `(B, H, M, channels / H)`."""
    return x.unflatten(-1, (-1, _HEAD)).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from `(B, M, C)` to `(B, L, C)`, with heads of `_HEAD` channels, to `(B, M, C)`."""
    out = F.scaled_dot_product_attention(_heads(query), _heads(key), _heads(value))
    return out.transpose(1, 2).flatten(2)


class _LatentBlock(nn.Module):
    """Add to the latents what they learn from each other, then a change of each on its own.

    All latents of a record are normalized together, so that their proportions stay.
    """

    def __init__(self, width: int, cond_dim: int) -> None:
        super().__init__()
        self.films = nn.ModuleList(_Film(width, cond_dim) for _ in range(2))
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.pointwise = _pointwise(width)

        zero(self.out)

    def forward(self, z: Tensor, names: Tensor, cond: Tensor | None) -> Tensor:
        """Map `z (B, L, width)`, told apart by `names (L, width)`, and `cond (B, cond_dim)`."""
        first, second = self.films
        known = names + first(F.layer_norm(z, z.shape[1:]), cond)
        query, key, value = self.project(known).chunk(3, -1)
        z = z + self.out(_attend(query, key, value))
        return z + self.pointwise(names + second(F.layer_norm(z, z.shape[1:]), cond))


def _pointwise(width: int) -> nn.Module:
    """Make a network of one hidden layer that starts at zero."""
    last = nn.Linear(4 * width, width)
    zero(last)
    return nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), last)


def _gate(known: int, width: int) -> nn.Linear:
    """Make factors of order one, that are linear in what is known of a node."""
    layer = nn.Linear(known, width)
    nn.init.normal_(layer.weight, std=known**-0.5)
    nn.init.ones_(layer.bias)
    return layer


class FunctionSpaceNet(nn.Module):
    r"""Map signals to signals by way of a fixed number of latents, at any resolution.

    As in Manifold Diffusion Fields (Elhag et al. 2024, arXiv 2305.15586), a signal is a set of
    pairs: the values of the Laplacian's eigenfunctions at a node, and the signal's value there. A
    Perceiver IO (Jaegle et al. 2022, arXiv 2107.14795) reads and writes them. No weight knows the
    number of nodes.

    Reading: each latent has a place on the domain, given by values c_l of the eigenfunctions. The
    places are learned, and start at nodes that are far from each other. A latent attends to the
    nodes with the weights of a quadrature,

        w_li = a_i exp(c_l S phi_i) / sum_j a_j exp(c_l S phi_j),    a_i the areas, S diagonal,

    which tend to a density about that place as the nodes become many. The weights depend on the
    places alone, so that the latents are linear functionals of the signal, as smooth as the
    eigenfunctions are. The variance of white noise in them falls with the number of nodes.

    Writing: the latents attend to each other, then each node attends to the latents. The output is
    a smooth function of the place. It cannot follow what differs from node to node without a
    pattern that the eigenfunctions have.

    The eigenfunctions are those of the continuous Laplacian if the domain knows them
    (`Domain.continuous_eigenbasis`: the globe, images). Otherwise they are computed, and saved
    with the weights, because their signs and rotations are a matter of chance.

    Args:
        domain: The domain that input and output live on.
        in_channels: Number of channels in the input.
        out_channels: Number of channels in the output.
        width: Number of channels of nodes and latents, a multiple of 16.
        modes: Number of eigenfunctions that tell the place; the network sees no finer structure.
        latents: Number of latents.
        layers: Number of blocks of attention among the latents.
        cond_dim: Length of the condition, or 0 for none.
        zero_init: Whether the output is zero before training.
        static: Further known fields (F, N) of order one; or their number F, of a network that is to
            be loaded.
        functions: Eigenfunctions (modes, N) in place of the domain's own; see `on`.

    Raises:
        InputError: If `width` is no multiple of 16, or `modes` is out of range.
    """

    SIZES: ClassVar[dict[str, dict[str, int]]] = {
        "tiny": {"width": 64, "modes": 64, "latents": 64, "layers": 3},
        "small": {"width": 112, "modes": 100, "latents": 96, "layers": 4},
        "medium": {"width": 192, "modes": 144, "latents": 128, "layers": 4},
        "large": {"width": 320, "modes": 256, "latents": 192, "layers": 5},
        "huge": {"width": 512, "modes": 400, "latents": 256, "layers": 6},
    }
    """Arguments that give about 0.3, 1, 3, 10 and 30 million parameters."""

    functions: Tensor
    static: Tensor
    log_areas: Tensor

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 64,
        modes: int = 64,
        latents: int = 64,
        layers: int = 4,
        cond_dim: int = 0,
        zero_init: bool = True,
        static: Tensor | int = 0,
        functions: Tensor | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or width % _HEAD:
            raise InputError(f"FunctionSpaceNet(width={width}): choose a multiple of {_HEAD}.")
        if not 1 <= modes <= domain.num_nodes:
            raise InputError(f"FunctionSpaceNet(modes={modes}): choose 1 to {domain.num_nodes}.")
        self.domain = domain
        if isinstance(static, int):
            static = torch.zeros(static, domain.num_nodes)
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "width": width,
            "modes": modes,
            "latents": latents,
            "layers": layers,
            "cond_dim": cond_dim,
            "zero_init": zero_init,
            "static": len(static),
        }
        if functions is None:
            functions = _functions(domain, modes)
        self.register_buffer("static", static.float(), persistent=len(static) > 0)
        computed = domain.continuous_eigenbasis(1) is None
        self.register_buffer("functions", functions.float(), persistent=computed)
        areas = domain.areas / domain.areas.mean()
        self.register_buffer("log_areas", areas.log().float(), persistent=False)

        hidden, known = width if cond_dim else 0, modes + len(static)
        self.embed = nn.Sequential(nn.Linear(cond_dim, hidden), nn.SiLU()) if cond_dim else None
        self.places = nn.Parameter(_landmarks(domain, functions.float(), latents))
        self.names = nn.Linear(modes, width)
        sharpness = torch.linspace(*_SHARPNESS, width // _HEAD)[:, None].expand(-1, modes) / modes
        self.read_sharpness = nn.Parameter(sharpness.clone())
        self.write_sharpness = nn.Parameter(sharpness.clone())
        self.read_gate, self.write_gate = _gate(known, width), _gate(known, width)
        self.read_value = nn.Linear(in_channels, width, bias=False)
        nn.init.normal_(self.read_value.weight, std=in_channels**-0.5)
        self.blocks = nn.ModuleList(_LatentBlock(width, hidden) for _ in range(layers))
        self.write_value = nn.Linear(width, width)
        nn.init.orthogonal_(self.write_value.weight)
        self.place = nn.Linear(known, width)
        self.films = nn.ModuleList(_Film(width, hidden) for _ in range(3))
        self.pointwise = _pointwise(width)
        self.head = nn.Linear(width, out_channels)
        if zero_init:
            zero(self.head)

    @classmethod
    def sized(
        cls, domain: Domain, in_channels: int, out_channels: int, size: str, **options: Any
    ) -> Self:
        """Make a network of a size in `SIZES`; small domains have a mode for each two nodes."""
        sizes: dict[str, Any] = dict(cls.SIZES[size])
        sizes["modes"] = min(sizes["modes"], max(domain.num_nodes // 2, 1))
        sizes["latents"] = min(sizes["latents"], domain.num_nodes)
        return cls(domain, in_channels, out_channels, **sizes, **options)

    def on(self, domain: Domain, static: Tensor | None = None) -> Self:
        """Return the network with the same weights on another domain of the same surface.

        Args:
            domain: Domain of the same kind at another resolution: the globe, an image of the same
                proportions, or a surface or region in the same coordinates, on which
                `apsgeo.domains.alignment.aligned` finds the eigenfunctions again.
            static: The known fields (F, N) there, if the network has some.

        Raises:
            InputError: If the domain is another surface, or known fields are missing or not wanted.
        """
        given = 0 if static is None else len(static)
        if given != len(self.static):
            raise InputError(
                f"{given} static fields were given, and the network knows {len(self.static)}; "
                "give those fields on the new domain."
            )
        changed = {"static": given if static is None else static}
        there = type(self)(domain, **self.config | changed, functions=self._functions_on(domain))
        buffers = dict(there.named_buffers())
        weights = {n: t for n, t in self.state_dict().items() if n not in buffers}
        there.load_state_dict(weights, strict=False)
        return there.to(next(self.parameters())).train(self.training)

    def _functions_on(self, domain: Domain) -> Tensor:
        modes = int(self.config["modes"])
        here, there = (d.continuous_eigenbasis(modes) for d in (self.domain, domain))
        if (here is None) != (there is None) or self.domain.kind != domain.kind:
            raise InputError(
                f"the network was trained on {self.domain!r}, of which {domain!r} is no other "
                "resolution; give the same surface."
            )
        if here is None or there is None:
            return aligned(self.functions.cpu().T, self.domain, domain).T
        values_here, values_there = here[0] * self.domain.areas.sum(), there[0] * domain.areas.sum()
        if not torch.allclose(values_here, values_there, rtol=1e-4, atol=1e-4):
            raise InputError(
                f"the eigenvalues of {domain!r} are not in proportion to those of {self.domain!r} "
                "that the network was trained on; give the same shape at another resolution."
            )
        return _functions(domain, modes)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Map `x (B, in_channels, N)` and `cond (B, cond_dim)` to `(B, out_channels, N)`.

        Raises:
            InputError: If a condition is missing, or given to a network that was built without.
        """
        hidden = embed_condition("FunctionSpaceNet", self.embed, cond, self.config["cond_dim"])
        names, z = self.names(self.places), self.read(x)
        for block in self.blocks:
            z = block(z, names, hidden)
        return self._write(z, hidden)

    @property
    def _known(self) -> Tensor:
        """What is known of each node, (N, modes + F)."""
        return torch.cat([self.functions, self.static]).T.to(self.places.dtype)

    def read(self, x: Tensor) -> Tensor:
        """Return linear functionals (B, latents, width) of the signal (B, in_channels, N)."""
        value = self.read_gate(self._known) * self.read_value(x.transpose(1, 2))
        query = self.read_sharpness[:, None] * self.places
        return _attend_alike(query, self.functions.T.to(query.dtype), value, self.log_areas)

    def _write(self, z: Tensor, cond: Tensor | None) -> Tensor:
        """Return smooth functions (B, out_channels, N) of the latents."""
        of_value, inner, outer = self.films
        query = self.write_sharpness[:, None] * self.functions.T.to(z.dtype)
        known = self._known
        y = _attend_alike(query, self.places, self.write_value(of_value(z, cond)))
        y = self.write_gate(known) * y
        change = inner(F.layer_norm(y + self.place(known), y.shape[-1:]), cond)
        return self.head(outer(y + self.pointwise(change), cond)).transpose(1, 2)


def _attend_alike(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attend with the same weights in all records: they are one record with more channels.

    Args:
        query: Queries (H, M, k) of the H heads.
        key: Keys (L, k), the same for all heads.
        value: Values (B, L, channels), of which each head takes channels / H.
        bias: Numbers (L,) that are added to the logits.

    Returns:
        (B, M, channels).
    """
    records, heads = len(value), len(query)
    value = value.unflatten(-1, (heads, -1)).permute(2, 1, 0, 3)
    mask = None if bias is None else bias.to(query.dtype).expand(query.shape[1], -1)
    out = F.scaled_dot_product_attention(
        query, key.to(query.dtype).expand(heads, -1, -1), value.flatten(2), mask, scale=1.0
    )
    return out.unflatten(-1, (records, -1)).permute(2, 1, 0, 3).flatten(2)


def _landmarks(domain: Domain, functions: Tensor, count: int) -> Tensor:
    """Return the functions (count, modes) at nodes that are each far from those before it."""
    chosen, distance = [0], torch.full((domain.num_nodes,), torch.inf, dtype=torch.float64)
    for _ in range(count - 1):
        apart = (domain.positions - domain.positions[chosen[-1]]).norm(dim=1)
        distance = torch.minimum(distance, apart)
        chosen.append(int(distance.argmax()))
    return functions[:, chosen].T.clone()


def _functions(domain: Domain, modes: int) -> Tensor:
    """Return the domain's eigenfunctions (modes, N), with mean squares by area of one."""
    basis = domain.continuous_eigenbasis(modes) or domain.eigenbasis(modes)
    return (basis[1] * domain.areas.sum().sqrt()).T
