"""A linear correction of a trained denoiser in bands of scales, which mends its power."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain

__all__ = ["BandRecalibration", "Gram", "band_edges"]

FIRST_BAND = 25  # eigenfunctions, so that chance does not rule it
GROWTH = 1.8  # of the number of eigenfunctions from band to band
_MOST = 1024  # eigenfunctions in closed form; half as many where they must be computed
_RIDGE = 1e-6  # relative to the mean square of each regressor
_TERMS = 3


def band_edges(eigenfunctions: int) -> list[int]:
    """Return where bands of so many eigenfunctions end: of 25, and each next of 1.8 times that.

    The last takes what is left, and there is none if there are fewer than 25.
    """
    edges, size = [0], float(FIRST_BAND)
    while edges[-1] + round(size) <= eigenfunctions:
        edges.append(edges[-1] + round(size))
        size *= GROWTH
    if len(edges) > 1:
        edges[-1] = eigenfunctions
    return edges[1:]


def _basis(domain: Domain) -> Tensor:
    """Return eigenfunctions (node, k), up to waves of about four nodes."""
    most = domain.num_nodes // 4
    closed = domain.continuous_eigenbasis(min(most, _MOST)) if most else None
    return (closed or domain.eigenbasis(max(1, min(most, _MOST // 2))))[1]


class BandRecalibration(nn.Module):
    r"""What is added to a denoiser in each band of eigenfunctions, at each level of noise.

    With P_b the projection on band b, s = x_t / alpha, c what the network adds to the anchor's
    D_G, and weights w per level, channel and band,

        sum_b P_b (w_b0 c + w_b1 (s - D_G) + w_b2 D_G).

    The weights are those of least squares of x - D on these three, in the band (`Gram`). Then
    E[s_b (x - D)_b] = 0, on which the power of samples rests: along the probability flow of
    v = sigma^2 / alpha^2, ds / d log v = (s - D) / 2 and so

        d E[s_b^2] / d log v = E[s_b^2] - E[s_b D_b].

    A network is trained for the least error, to which the power of a band may matter little.

    Args:
        domain: where the signal lives.
        channels: of the signal.
        levels: of noise.
    """

    weights: Tensor
    band: Tensor
    functions: Tensor
    areas: Tensor

    def __init__(self, domain: Domain, channels: int, levels: int) -> None:
        super().__init__()
        functions = _basis(domain)
        edges = band_edges(functions.shape[1])
        sizes = torch.tensor([0, *edges]).diff()
        self.register_buffer("band", torch.arange(len(sizes)).repeat_interleave(sizes), False)
        self.register_buffer("functions", functions[:, : len(self.band)], False)
        self.register_buffer("areas", domain.areas, False)
        shape = (levels, _TERMS, channels, len(edges))
        self.register_buffer("weights", torch.zeros(shape, dtype=torch.float64))

    def coefficients(self, fields: Sequence[Tensor]) -> Tensor:
        """Return coefficients (field, batch, channel, eigenfunction) of fields on the basis."""
        given = torch.stack(list(fields))
        return (given * self.areas.to(given)) @ self.functions.to(given)

    def forward(self, change: Tensor, residual: Tensor, mean: Tensor, hats: Tensor) -> Tensor:
        """Return what is added, (batch, channel, node).

        Args:
            change: c, (batch, channel, node).
            residual: s - D_G.
            mean: D_G.
            hats: (batch, level), weights of the levels.
        """
        weights = torch.einsum("bl,ltck->tbck", hats.to(self.weights), self.weights).to(change)
        given = self.coefficients([change, residual, mean])
        added = (weights[..., self.band] * given).sum(0)
        return added @ self.functions.to(added).T

    def gram(self) -> Gram:
        """Return the empty sums of a level's least squares."""
        return Gram(self)


class Gram:
    """Sums over fields from which one level's weights come."""

    def __init__(self, bands: BandRecalibration) -> None:
        _, terms, channels, count = bands.weights.shape
        self._bands = bands
        self._sums = bands.weights.new_zeros(channels, count, terms + 1, terms + 1)

    def add(self, change: Tensor, residual: Tensor, mean: Tensor, error: Tensor) -> None:
        """Add fields (batch, channel, node): c, s - D_G, D_G, and x - D."""
        given = self._bands.coefficients([x.double() for x in (change, residual, mean, error)])
        products = torch.einsum("sbck,tbck->ckst", given, given)
        self._sums.index_add_(1, self._bands.band, products)

    def solve(self) -> Tensor:
        """Return the weights (term, channel, band)."""
        own, target = self._sums[..., :-1, :-1], self._sums[..., :-1, -1]
        scale = own.diagonal(dim1=-2, dim2=-1).clamp_min(torch.finfo(own.dtype).tiny).sqrt()
        relative = own / scale[..., None] / scale[..., None, :]
        relative = relative + _RIDGE * torch.eye(_TERMS).to(own)
        solution = torch.linalg.solve(relative, target / scale) / scale
        return solution.permute(2, 0, 1)
