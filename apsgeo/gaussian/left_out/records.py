"""How much wider than a prior says records are that it has not learned from."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Measurement
from apsgeo.operators import Mask
from apsgeo.operators.base import HELD_OUT_DENSITIES

__all__ = ["held_out_spread"]

_NOISE = 0.1  # of the simulated measurements, in standard deviations
_LEVEL = 0.9  # share of the errors that are to be in the interval of that share


def held_out_spread(
    prior: SeasonalPrior,
    fields: Tensor,
    season: Tensor,
    valid: Tensor,
    *,
    targets: int = 200,
    seed: int = 0,
) -> float:
    """Return the factor of standard deviations by which predictions of held-out records cover.

    Each record is measured by a mask, of the densities by which scales are chosen in turn. Nine in
    ten of the errors at nodes drawn by area are then within 1.64 standard deviations times the
    factor. A quantile is taken, and no mean square, which a few nodes would rule that hardly vary
    in the history.

    Args:
        prior: The prior.
        fields: Standardized anomalies (record, channel, node) that it has not learned from.
        season: Index (record,) of each record's season.
        valid: Mask (node,), false where there is nothing to predict.
        targets: Number of nodes of each record that are predicted.
        seed: Seed of masks, noise and nodes.
    """
    generator = torch.Generator().manual_seed(seed)
    domain, local = prior.domain, VecchiaPrior(prior)
    errors = []
    for record, field in enumerate(fields):
        density = HELD_OUT_DENSITIES[record % len(HELD_OUT_DENSITIES)]
        seen = Mask.at_density(domain, density, generator) & valid
        mask = seen.expand(1, *field.shape)
        values = field + _NOISE * torch.randn(field.shape, generator=generator)
        one = slice(record, record + 1)
        given = Measurement(values[None], mask, torch.tensor(_NOISE), season=season[one])
        hidden = domain.areas.float() * (valid & ~seen)
        count = min(targets, int((hidden > 0).sum()))
        if count == 0:
            continue
        nodes = torch.multinomial(hidden, count, generator=generator)
        mean, std = local.marginals_at(given, nodes)
        errors.append(((field[:, nodes] - mean[0]) / std[0]).abs().flatten())
    if not errors:
        return 1.0
    found = torch.cat(errors).quantile(_LEVEL)
    return float(found / torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.5 + _LEVEL / 2)))
