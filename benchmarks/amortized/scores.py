"""Scores of an ensemble of whole fields: its marginals, its joint law and its spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scoringrules
from numpy.typing import NDArray

from apsgeo.domains import LatLonDomain
from apsgeo.metrics.predictions import EnsemblePrediction
from apsgeo.metrics.scores import energy_score, mse, weighted_mean

__all__ = ["BANDS", "FieldScores"]

Array = NDArray[np.float64]

BANDS = ((1, 4), (5, 9), (10, 17), (18, 27), (28, 36))
"""First and last degree of the spherical harmonics of each band."""

_SITES = 300  # nodes whose pairs the variogram score compares
_POWER = 0.5  # power of the differences in it


class FieldScores:
    """Scores of ensembles on one domain, summed over records.

    Args:
        domain: Domain of the fields.
        weights: Weights (node,) of the nodes, where they are not observed.
        seed: Seed of the nodes whose pairs are compared.
    """

    def __init__(self, domain: LatLonDomain, weights: Array, seed: int = 0) -> None:
        self.weights = weights
        share = weights / weights.sum()
        self._sites = np.random.default_rng(seed).choice(len(share), _SITES, False, share)
        last = BANDS[-1][1]
        found = domain.continuous_eigenbasis((last + 1) ** 2)
        assert found is not None
        values, basis = found
        degree = np.rint(np.sqrt(values.numpy() + 0.25) - 0.5).astype(int)
        area = domain.areas.numpy()
        self._analysis = [
            (basis.numpy()[:, (degree >= first) & (degree <= end)] * area[:, None]).T
            for first, end in BANDS
        ]

    def power(self, fields: Array) -> Array:
        """Return the mean power (band,) of fields (..., node)."""
        flat = fields.reshape(-1, fields.shape[-1]).T
        return np.array([((part @ flat) ** 2).sum(0).mean() for part in self._analysis])

    def record(
        self, members: Array, truth: Array, observed: NDArray[np.bool_], anomaly: Array
    ) -> dict[str, float]:
        """Score the members (member, node) of one record.

        Args:
            members: The ensemble, in the units of the data.
            truth: The true field (node,).
            observed: Where it was observed (node,); the other nodes count.
            anomaly: Climatological mean (node,), which is taken off before spectra.
        """
        weights = np.where(observed, 0.0, self.weights)
        prediction = EnsemblePrediction(members[:, None])
        sites = self._sites[~observed[self._sites]]
        power = zip(self.power(members - anomaly), self.power(truth - anomaly), strict=True)
        spectra = {
            name: value
            for k, pair in enumerate(power)
            for name, value in zip((f"power_{k}", f"true_power_{k}"), pair, strict=True)
        }
        variogram = scoringrules.vs_ensemble(truth[sites], members[:, sites], p=_POWER)
        return {
            "crps": float(weighted_mean(prediction.crps(truth[None]), weights)[0]),
            "square": float(mse(prediction.mean(), truth[None], weights)[0]),
            "variance": float(weighted_mean(prediction.variance(), weights)[0]),
            "coverage90": float(weighted_mean(prediction.covered(truth[None], 0.9), weights)[0]),
            "energy": float(energy_score(members, truth, weights)),
            "variogram": float(variogram) / max(1, len(sites)) ** 2,
            **spectra,
        }

    @staticmethod
    def pooled(records: Sequence[dict[str, float]]) -> dict[str, float]:
        """Return the scores of all records of a method together."""
        mean = {name: float(np.mean([each[name] for each in records])) for name in records[0]}
        ratios = [mean[f"power_{k}"] / mean[f"true_power_{k}"] for k in range(len(BANDS))]
        return {
            "crps": mean["crps"],
            "rmse": mean["square"] ** 0.5,
            "spread_skill": (mean["variance"] / mean["square"]) ** 0.5,
            "coverage90": mean["coverage90"],
            "energy": mean["energy"],
            "variogram": mean["variogram"],
            **{f"power_{k}": ratio for k, ratio in enumerate(ratios)},
        }
