"""Diffusions whose scores are exact, to test samplers and estimates of densities on."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.diffusion.riemannian.density import RiemannianDiffusion
from apsgeo.domains.base import Domain
from apsgeo.values.manifold import Manifold

__all__ = ["HeatMixture"]


class HeatMixture(RiemannianDiffusion):
    """Independent nodes, each a mixture of heat kernels, which Brownian motion only widens.

    Args:
        domain: Domain of the fields.
        manifold: Compact manifold of the values.
        centres: Centres (component, node, ambient) of the kernels.
        variances: Times (component,) of the kernels, in squared radii.
        weights: Weights (component,) that sum to one.
        least: Time from which on scores are asked for.
    """

    def __init__(
        self,
        domain: Domain,
        manifold: Manifold,
        centres: Tensor,
        variances: Tensor,
        weights: Tensor,
        *,
        least: float = 1e-4,
    ) -> None:
        super().__init__(domain, manifold, least=least)
        self.centres, self.variances, self.weights = (
            each.double() for each in (centres, variances, weights)
        )

    def score(self, points: Tensor, clock: float) -> Tensor:
        """Return the gradient (batch, node, ambient) of log p_t, exactly."""
        log_each, scores = self._components(points, clock)
        share = torch.softmax(log_each, 0)[..., None]
        return (share * scores).sum(0)

    def log_prob(self, fields: Tensor) -> Tensor:
        """Return the log-density (batch,) of fields (batch, ambient, node), exactly."""
        points = self._points(fields)
        log_each, _ = self._components(points, 0.0)
        total = torch.logsumexp(log_each, 0).sum(-1)
        each = sum(part.log_measure for part in self.walk.parts)
        return total + self.domain.num_nodes * each

    def _components(self, points: Tensor, clock: float) -> tuple[Tensor, Tensor]:
        """Return log-weights (component, batch, node) of kernels and their scores."""
        scores, total = [], self.weights.log()[:, None, None]
        times = (self.variances + clock)[:, None, None]
        pairs = zip(self.walk.split(self.centres[:, None]), self.walk.split(points), strict=True)
        for part, (centre, point) in zip(self.walk.parts, pairs, strict=True):
            rows = [part.folded(c, point, t) for c, t in zip(centre, times, strict=True)]
            total = total + torch.stack([row[0] for row in rows])
            scores.append(torch.stack([row[1] for row in rows]))
        return total, torch.cat(scores, -1)
