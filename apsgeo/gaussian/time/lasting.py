"""The part of a field that lasts: what the amplitudes of a few patterns tell of it."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.eofs import EOFs

__all__ = ["Lasting"]

_MOST = 32  # patterns
_AMONG = 64  # leading patterns that they are chosen from
_NODES = 512  # values by which their amplitudes are measured


class Lasting:
    """The part of a field that the amplitudes of a few patterns tell.

    The amplitudes are a = F x, weighted sums of some of the field's values, and the part of x that
    they tell is its conditional mean A = E[x | a]. It is independent of the rest, x - A, and its
    covariance is W W^T with W = C F^T (F C F^T)^{-1/2}, whatever the Gaussian prior C.

    Args:
        values: Values (k,) that are weighted, places among channel * node.
        weights: Weights F (pattern, k).
    """

    def __init__(self, values: Tensor, weights: Tensor) -> None:
        self.values, self.weights = values, weights
        self._kept: WeakKeyDictionary[Covariance, Tensor] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle nothing of what is kept."""
        return Lasting, (self.values, self.weights)

    @classmethod
    def of(cls, domain: Domain, eofs: EOFs, time: np.ndarray) -> Lasting | None:
        """Find the patterns of a history whose amplitudes last longer than those of the others.

        The leading patterns are split in two by the correlation of their amplitudes a step apart,
        so that the difference of both parts explains the most variance of the correlation, each
        pattern weighted by its own variance (Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076).

        Args:
            domain: Domain of the patterns.
            eofs: EOFs of the history.
            time: Time (time,) of its records, in steps.
        """
        among = min(_AMONG, eofs.rank, len(time) // 4)
        after = np.flatnonzero(np.abs(np.diff(time) - 1.0) < 0.15) + 1
        if among < 2 or len(after) < 2:
            return None
        amplitudes = eofs.components[:, :among].double()
        rho = (amplitudes[after] * amplitudes[after - 1]).mean(0)
        share = (domain.areas.double() / domain.areas.sum())[None, :, None]
        loadings = eofs.loadings[..., :among].double()
        power = (loadings**2 * share).sum((0, 1))
        order = rho.argsort(descending=True)
        weight = power[order].cumsum(0)[:-1]
        total = (power * rho)[order].cumsum(0)
        whole = float(power.sum())
        between = (total[:-1] * whole - weight * total[-1]) ** 2 / (weight * (whole - weight))
        count = min(int(between.argmax()) + 1, _MOST)
        lasting = loadings[..., order[:count]].flatten(0, 1)
        generator = torch.Generator().manual_seed(0)
        chance = domain.areas.double().repeat(len(loadings)) * (loadings**2).sum(-1).flatten()
        most = min(_NODES, int((chance > 0).sum()))
        values = torch.multinomial(chance.sign() * chance.sqrt(), most, generator=generator)
        values = values.sort().values
        return cls(values, torch.linalg.pinv(lasting[values]).float())

    def amplitudes(self, fields: Tensor) -> Tensor:
        """Return the amplitudes (record, pattern) of fields (record, channel, node), float64."""
        return fields.flatten(1)[:, self.values].double() @ self.weights.double().T

    def part(self, prior: Covariance, fields: Tensor) -> Tensor:
        """Return the part A (record, channel, node) of fields that the amplitudes tell."""
        gain, root = self._gain(prior)
        white = torch.linalg.solve_triangular(root, self.amplitudes(fields).T, upper=False)
        return (gain @ white).T.reshape(fields.shape)

    def root(self, prior: Covariance) -> Tensor:
        """Return W (value, pattern), float32; it is kept as long as the prior is."""
        found = self._kept.get(prior)
        if found is None:
            found = self._kept[prior] = self._gain(prior)[0].float()
        return found

    def _gain(self, prior: Covariance) -> tuple[Tensor, Tensor]:
        """Return W = C F^T R^{-T} (value, pattern), and R, the root of F C F^T = R R^T."""
        weights = self.weights.double()
        every, some = np.arange(prior.size), self.values.numpy()
        cross = torch.from_numpy(prior.covariance(every, some)) @ weights.T
        root = torch.linalg.cholesky(weights @ cross[self.values])
        return torch.linalg.solve_triangular(root.T, cross, upper=True, left=False), root

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save."""
        return {"lasting.values": self.values, "lasting.weights": self.weights}
