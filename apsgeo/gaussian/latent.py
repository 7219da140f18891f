"""Normal numbers behind fields with values at a bound, drawn given all others."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Measurement, Normals, QuantileNormals

__all__ = ["latent_fields"]

_EXACT = 0.05  # standard deviation of the noise that exact normal numbers are given
_TOGETHER = 16  # fields
_SEED = 20261130


def latent_fields(normals: Normals, values: Tensor, season: Tensor, prior: SeasonalPrior) -> Tensor:
    """Return standardized anomalies (record, channel, node) of complete fields.

    Where values are at a bound, their normal numbers are only known to be beyond its score. They
    are drawn from a Gaussian prior, given the numbers elsewhere and that knowledge, and brought
    beyond it by `QuantileNormals.beyond` (data augmentation; Tanner & Wong 1987,
    https://doi.org/10.1080/01621459.1987.10478458).

    Args:
        normals: Normals of the variable.
        values: Complete fields (record, channel, node) in the units of the data.
        season: Index (record,) of each record's season.
        prior: Prior of the anomalies.
    """
    if not isinstance(normals, QuantileNormals):
        return normals.encode(values, season)
    method, found = VecchiaPrior(prior), []
    for rows in torch.arange(len(values)).split(_TOGETHER):
        x, s = values[rows], season[rows]
        mask = normals.valid.expand_as(x)
        noise = torch.tensor(1e-3) * normals.std[s]
        seen = normals.measure(Measurement(x.nan_to_num().float(), mask, noise, season=s, key=rows))
        widened = seen.noise_std.clamp(min=_EXACT)
        drawn = method.posterior(
            Measurement(seen.values, seen.mask, widened, season=s, key=rows)
        ).members(1, _SEED)[0]
        found.append(drawn)
    return normals.beyond(values, season, torch.cat(found))
