"""Ways of measuring fields, which the benchmarks of domains and of images share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apsgeo.domains import Domain
from apsgeo.measurement import Measurement
from apsgeo.operators import Operator


@dataclass(frozen=True)
class Task:
    """A way of measuring fields.

    Attributes:
        name: Name in the table.
        operator: Operator that measures.
        noise_std: Standard deviation of the noise, in a unit that the benchmark chooses.
        density: Observed fraction of the area, of masks.
        hidden_only: True to score the nodes that were not observed, false to score all.
    """

    name: str
    operator: Operator
    noise_std: float = 1.0
    density: float = 1.0
    hidden_only: bool = False

    def measure(
        self,
        domain: Domain,
        truth: Tensor,
        generator: torch.Generator,
        unit: float = 1.0,
        **record: Any,
    ) -> Measurement:
        """Return a measurement of fields (record, 1, node), with the season and key in `record`."""
        linear = self.operator.on(domain)
        values = linear.apply(truth)
        masks = [self.operator.at_density(domain, self.density, generator) for _ in truth]
        noise_std = torch.full_like(values, self.noise_std * unit)
        white = torch.randn(values.shape, generator=generator, dtype=truth.dtype)
        mask = torch.stack(masks)[:, None].expand_as(values)
        return Measurement(values + noise_std * white, mask, noise_std, operator=linear, **record)
