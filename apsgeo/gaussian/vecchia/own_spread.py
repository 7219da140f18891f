"""A spread that each record tells by its own observations: smooth days, rough days and places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.vecchia.factor import Seen
from apsgeo.gaussian.vecchia.ordering import nearest_of, nearest_others

__all__ = ["OwnSpread"]

_MOST = 600  # observations of a record that are predicted
_GIVEN = 24  # observations that each is predicted from
_ENTRIES = 2**22  # of covariances at once
_FARTHEST = 5.0  # typical errors beyond which one counts no more: it is an outlier
_MEDIAN = 0.4549  # of the square of a standard normal number
_CORNERS = 4  # predicted observations between which the factor of a node is the mean


@dataclass(frozen=True)
class OwnSpread:
    r"""Factors of the spread of a record, told by how well its observations predict each other.

    One covariance for all records is right on average. It is too wide for smooth records and too
    narrow for rough ones, and too narrow wherever a record is unlike all that were learned from.
    The deviations of members from their mean are multiplied by s, at every node the scale

        s^2 = (near * r^2 + sum_i w_i e_i^2 / v_i) / (near + sum_i w_i),
        r^2 = (doubt + sum_j w_j e_j^2 / v_j) / (doubt + sum_j w_j),

    where e_i is what an observation differs by from its prediction given the observations nearest
    to it, v_i the variance of that, and w_i the share of v_i that is not noise. The second sum is
    over the record, the first over the observations near to the node. It is the scale of a
    Student-t process of so many degrees of freedom (Shah, Wilson & Ghahramani 2014, "Student-t
    processes as alternatives to Gaussian processes", arXiv 1402.4306), by local predictions in
    place of the joint law. The mean stays. An error counts for at most five times what is typical
    of its record, by the median, so that a wrong observation does not widen all.

    Attributes:
        doubt: Number of observations that count as much as the average spread.
        near: Number of observations near a node that count as much as the record's spread.
        around: Number of observations near a node that tell of it.
    """

    doubt: float = 8.0
    near: float = 20.0
    around: int = 60

    def sizes(self, prior: Covariance, seen: Seen, values: Tensor, positions: np.ndarray) -> Tensor:
        """Return the factors (field, value) of fields that are measured alike.

        Args:
            prior: Covariance of the fields.
            seen: Their observations.
            values: What was observed (field, observation).
            positions: Positions (node, d); values are those of one channel after the other.
        """
        nodes, channels = len(positions), prior.channels
        out = torch.ones(len(values), channels, nodes)
        channel = seen.main // nodes
        for each in range(channels):
            own = np.flatnonzero(channel == each)
            own = own[:: max(1, -(-len(own) // _MOST))]
            if len(own) and len(seen) > 1:
                place = seen.place[own]
                told = self._near(place, *self._misses(prior, seen, values, own))
                corners = torch.from_numpy(nearest_of(place, positions, _CORNERS)[0])
                out[:, each] = told[:, corners].mean(2).sqrt().float()
        return out.flatten(1)

    def _misses(
        self, prior: Covariance, seen: Seen, values: Tensor, own: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Return e^2 / v (field, n) and w (n,) of the observations (n,) that are predicted."""
        near = nearest_others(seen.place, own, _GIVEN)
        group = torch.from_numpy(np.concatenate([own[:, None], near], 1))
        noise_var, y = seen.noise_var.double(), values.double()
        squares, shares = [], []
        for each in group.split(max(1, _ENTRIES // (group.shape[1] * seen.width) ** 2)):
            blocks = prior.covariance_blocks(seen.values[each].flatten(1)).double()
            weights = seen.weights[each].double()
            blocks = blocks.unflatten(2, weights.shape[1:]).unflatten(1, weights.shape[1:])
            block = torch.einsum("bipjq,bip,bjq->bij", blocks, weights, weights)
            cross, others = block[:, 1:, 0], block[:, 1:, 1:]
            gain = torch.linalg.solve(others + torch.diag_embed(noise_var[each[:, 1:]]), cross)
            left = (block[:, 0, 0] - (gain * cross).sum(1)).clamp(min=0.0)
            total = left + noise_var[each[:, 0]]
            off = y[:, each[:, 0]] - (gain * y[:, each[:, 1:]]).sum(2)
            squares.append(off.square() / total)
            shares.append(left / total)
        return torch.cat(squares, 1), torch.cat(shares)

    def _near(self, place: np.ndarray, squares: Tensor, shares: Tensor) -> Tensor:
        """Return s^2 (field, n) at the observations (n,) that were predicted."""
        typical = (squares.median(1, keepdim=True).values / _MEDIAN).clamp(min=1.0)
        told = shares * torch.minimum(squares, _FARTHEST**2 * typical)
        record = (self.doubt + told.sum(1)) / (self.doubt + shares.sum())
        around = torch.from_numpy(nearest_of(place, place, self.around)[0])
        total = self.near * record[:, None] + told[:, around].sum(2)
        return total / (self.near + shares[around].sum(1))
