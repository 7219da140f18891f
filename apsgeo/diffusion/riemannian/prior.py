"""The diffusion prior of values on a manifold: a network of tangent vectors on top of an anchor."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from apsgeo.diffusion.prior import COND_DIM
from apsgeo.diffusion.riemannian.density import MOST, RiemannianDiffusion
from apsgeo.diffusion.riemannian.tangent import (
    coefficients_of,
    features_of,
    numbers_seen,
    tangent_of,
)
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError, ModelError
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.measurement import Normals
from apsgeo.nn.unet import FourierEmbedding, UNet
from apsgeo.values.brownian import Brownian
from apsgeo.values.catalogue import manifold_from_config
from apsgeo.values.manifold import Manifold

__all__ = ["RiemannianPrior"]

_STEPS = 60  # of a draw


class RiemannianPrior(RiemannianDiffusion):
    r"""A diffusion of fields on a manifold, trained by score matching with heat kernels.

    Isometries take the mean of each season and node to one origin o, and what follows is about
    values there: their density is that of the values themselves. With the variance of the node,

        score(x, t) = grad log K(o, x; variance + t) + c(t) P(x) net(features of x, log t)

    where K is the heat kernel: untrained, each node is on its own, and its values are those of a
    Brownian motion from its mean. Of these the density, the draws and the bound are exact. The
    network is the domain's U-Net. It sees the numbers of points (`features_of`), and gives
    coefficients of vector fields that span the tangent spaces (`tangent_of`). c(t) is the root mean
    square of what the anchor does not foresee of the score. An isometry of the values moves means,
    anchor and draws alike.

    A ``shrinkage`` in [0, 1] per level multiplies what the network adds, one until training sets it
    (`apsgeo.diffusion.riemannian.fit.fit_riemannian`).

    Args:
        domain: Domain of the fields.
        manifold: Compact manifold of the values; see `Brownian`.
        to_origin: Isometries (season, node, ambient, ambient); see
            `apsgeo.values.origin.to_origin`.
        variance: Variance (part, node) of each node about its mean, in squared radii.
        network: Map of (batch, features, node) and a condition (batch, 64) to (batch, coefficients,
            node); a `UNet` of default size by default. See `network_channels`.
        valid: Mask (node,), false where there are no values.
        least: Time at which the walk begins.
        levels: Number of levels of the shrinkage, evenly in log t.
    """

    kind: ClassVar[str] = "riemannian"
    anchor: ClassVar[GaussianPrior | None] = None
    to_origin: Tensor
    shrinkage: Tensor

    def __init__(
        self,
        domain: Domain,
        manifold: Manifold,
        to_origin: Tensor,
        variance: Tensor,
        network: UNet | None = None,
        *,
        valid: Tensor | None = None,
        least: float = 1e-4,
        levels: int = 20,
    ) -> None:
        super().__init__(domain, manifold, least=least, variance=variance, valid=valid)
        self.register_buffer("to_origin", to_origin.double())
        if network is None:
            network = UNet(domain, *self.network_channels(manifold), cond_dim=COND_DIM)
        self.network = network
        self.embedding = FourierEmbedding(COND_DIM)
        self.log_clock = torch.linspace(
            math.log(least), math.log(MOST), levels, dtype=torch.float64
        )
        self.register_buffer("shrinkage", torch.ones(levels, dtype=torch.float64))

    @staticmethod
    def network_channels(manifold: Manifold) -> tuple[int, int]:
        """Return the numbers of channels that the network takes and gives."""
        parts = Brownian(manifold).parts
        return sum(map(numbers_seen, parts)), sum(map(coefficients_of, parts))

    def score(self, points: Tensor, clock: float) -> Tensor:
        """Return the score (batch, node, ambient); see `RiemannianDiffusion.score`."""
        return self.anchor_score(points, clock) + self._share(clock) * self.correction(
            points, clock
        )

    def anchor_score(self, points: Tensor, clock: float) -> Tensor:
        """Return the score (batch, node, ambient) of independent nodes about their means."""
        origins = self.walk.split(self.walk.origin.to(points))
        rows = zip(self.walk.parts, origins, self.walk.split(points), self.variance, strict=True)
        each = [
            part.folded(origin.expand_as(x), x, variance + clock)[1]
            for part, origin, x, variance in rows
        ]
        return torch.cat(each, -1) * self.valid[:, None]

    def correction(self, points: Tensor, clock: float) -> Tensor:
        """Return what the network adds to the anchor's score (batch, node, ambient), unshrunk."""
        parameter = next(self.network.parameters())
        split = self.walk.split(points)
        origins = self.walk.split(self.walk.origin.to(points))
        seen = []
        for part, x, origin, variance in zip(
            self.walk.parts, split, origins, self.variance, strict=True
        ):
            spread = (variance + clock).clamp(max=1.0).sqrt()[:, None]
            seen.append((features_of(part, x) - features_of(part, origin)) / spread)
        inputs = torch.cat(seen, -1).transpose(-1, -2).to(parameter)
        level = torch.full((len(points),), math.log(clock) / 4.0).to(parameter)
        out = self.network(inputs, self.embedding(level)).to(points).transpose(-1, -2)
        sizes = [coefficients_of(part) for part in self.walk.parts]
        vectors = zip(
            self.walk.parts, split, out.split(sizes, -1), self.output_std(clock), strict=True
        )
        each = [tangent_of(part, x, std[:, None] * c) for part, x, c, std in vectors]
        return torch.cat(each, -1) * self.valid[:, None]

    def output_std(self, clock: float) -> Tensor:
        """Return c(t), the root mean square (part, node) of what the anchor does not foresee."""
        each = [part.information(clock) / part.cover.dim for part in self.walk.parts]
        return (self._of_parts(each) * self.kept(clock)).sqrt()

    def _share(self, clock: float) -> float:
        """Return the shrinkage at a time, interpolated between the levels."""
        place = torch.tensor(math.log(clock), dtype=torch.float64)
        spacing = self.log_clock[1] - self.log_clock[0]
        hats = (1.0 - ((place - self.log_clock) / spacing).abs()).clamp(min=0.0)
        return float(hats @ self.shrinkage.cpu() / hats.sum())

    def relative(self, fields: Tensor, season: Tensor) -> Tensor:
        """Return fields (batch, ambient, node) of seasons (batch,) with means at the origin."""
        moves = self.to_origin[season.to(self.to_origin.device)]
        points = torch.einsum("bnij,bjn->bin", moves, fields.to(moves))
        return torch.where(self.valid, points, self.walk.origin.to(points)[:, None])

    def absolute(self, relative: Tensor, season: Tensor) -> Tensor:
        """Undo `relative`."""
        moves = self.to_origin[season.to(self.to_origin.device)]
        return torch.einsum("bnji,bjn->bin", moves, relative.to(moves))

    def sample(
        self, season: Tensor, generator: torch.Generator | None = None, steps: int = _STEPS
    ) -> Tensor:
        """Draw fields (batch, ambient, node) of the data, one of each season (batch,), float32."""
        drawn = self.draw(len(season), steps=steps, generator=generator)
        return self.absolute(drawn, season).float()

    def anomalies(
        self, normals: Normals, season: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the anomalies (batch, channel, node) that normals make of fields of seasons."""
        drawn = self.sample(season, generator).cpu()
        return normals.encode(drawn, season)

    def log_density(
        self,
        normals: Normals,
        anomalies: Tensor,
        season: Tensor,
        *,
        generator: torch.Generator | None = None,
        points: int = 16,
    ) -> Tensor:
        """Estimate a lower bound (batch,) of the log-density of anomalies; differentiable.

        Raises:
            InputError: If the normals' anomalies have no density.
        """
        normals.check_density()
        fields = normals.restore(anomalies, season)
        bound = self.elbo(self.relative(fields, season), generator=generator, points=points)
        return bound.value + normals.log_det(anomalies, season)

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return a JSON-able configuration and the tensors; the domain is not in it."""
        config = {
            "kind": self.kind,
            "manifold": self.manifold.to_config(),
            "least": self.least,
            "anchored": False,
            "network": self.network.config,
        }
        return config, {name: t.detach().cpu() for name, t in self.state_dict().items()}

    @classmethod
    def from_state(
        cls,
        config: dict[str, Any],
        tensors: dict[str, Tensor],
        domain: Domain,
        anchor: GaussianPrior | None = None,
    ) -> RiemannianPrior:
        """Rebuild a prior from `to_state` and its domain.

        Raises:
            ModelError: If the tensors do not fit, or there is an anchor.
        """
        if anchor is not None:
            raise ModelError("a diffusion prior on a manifold has no Gaussian anchor; pass none")
        try:
            prior = cls(
                domain,
                manifold_from_config(config["manifold"]),
                tensors["to_origin"],
                tensors["variance"],
                UNet(domain, **config["network"]),
                valid=tensors["valid"],
                least=float(config["least"]),
                levels=len(tensors["shrinkage"]),
            )
            prior.load_state_dict(tensors)
        except (KeyError, RuntimeError, InputError) as error:
            raise ModelError(
                f"the diffusion prior's tensors do not fit its network: {error}"
            ) from error
        return prior.eval()
