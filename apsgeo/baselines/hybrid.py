"""Optimal interpolation by a Gaussian prior, such as the hybrid of EOFs and a local field."""

from __future__ import annotations

import torch

from apsgeo.baselines.base import Observations
from apsgeo.flows.base import Base
from apsgeo.measurement import Normals
from apsgeo.metrics.predictions import EnsemblePrediction
from apsgeo.posterior import members_noise

__all__ = ["HybridGaussian"]


class HybridGaussian:
    """Draw from the exact posterior of a Gaussian prior on standardized anomalies.

    Args:
        normals: turn data into standardized anomalies and back.
        base: the posterior of standardized anomalies, one channel.
        members: how many draws.
        seed: member k of a record depends on (seed, the record's key, k) alone.
        name: in tables.
    """

    def __init__(
        self,
        normals: Normals,
        base: Base,
        *,
        members: int = 32,
        seed: int = 0,
        name: str = "hybrid Gaussian",
    ) -> None:
        self.name = name
        self.normals, self.base, self.members, self.seed = normals, base, members, seed

    def predict(self, observations: Observations) -> EnsemblePrediction:
        """Return the ensemble (K, T, N) of each record, in the unit of the data."""
        season = torch.from_numpy(observations.season)
        posterior = self.base.posterior(observations.standardized(self.normals), season)
        noise = members_noise(self.seed, observations.key, self.members, self.base.noise_dim)
        members = posterior.mean + posterior.deviations(noise)
        return EnsemblePrediction(self.normals.restore(members, season)[:, :, 0].numpy())
