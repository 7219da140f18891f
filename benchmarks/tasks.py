"""Ways of measuring fields, which the benchmarks of domains and of images share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apsgeo.domains import Domain
from apsgeo.operators import Operator


@dataclass(frozen=True)
class Task:
    """A way of measuring fields.

    Attributes:
        name: Its name in the table.
        operator: What is observed.
        noise_std: Standard deviation of the noise, in a unit that the benchmark gives.
        density: Observed fraction of the area, of masks.
        hidden_only: Whether scores are over the nodes that were not observed, or over all.
    """

    name: str
    operator: Operator
    noise_std: float = 1.0
    density: float = 1.0
    hidden_only: bool = False

    def measure(
        self, domain: Domain, truth: Tensor, generator: torch.Generator, unit: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return values (record, 1, observation), NaN where not observed, and their noise's std."""
        values = self.operator.on(domain).apply(truth)
        masks = [self.operator.at_density(domain, self.density, generator) for _ in truth]
        noise_std = torch.full_like(values, self.noise_std * unit)
        white = torch.randn(values.shape, generator=generator, dtype=truth.dtype)
        noisy = values + noise_std * white
        return torch.where(torch.stack(masks)[:, None], noisy, torch.nan), noise_std
