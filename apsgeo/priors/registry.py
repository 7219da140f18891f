"""The Gaussian priors that can be saved, by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.priors.gaussian import GaussianPrior
from apsgeo.priors.hybrid import HybridPrior
from apsgeo.priors.localised import LocalisedPrior

__all__ = ["GAUSSIAN_PRIORS", "gaussian_from_state"]

GAUSSIAN_PRIORS = {prior.kind: prior for prior in (HybridPrior, LocalisedPrior)}


def gaussian_from_state(
    config: dict[str, Any], tensors: dict[str, Tensor], domain: Domain
) -> GaussianPrior:
    """Rebuild a Gaussian prior from what its `to_state` returned."""
    return GAUSSIAN_PRIORS[config["kind"]].from_state(config, tensors, domain)
