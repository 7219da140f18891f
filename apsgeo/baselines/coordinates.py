"""Coordinates in which a measurement is of each number alone."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.measurement import Measurement

__all__ = ["Coordinates"]

_MOST_VALUES = 4096  # beyond which a dense decomposition takes minutes
_LEAST = 1e-6  # singular value below which a coordinate tells nothing


class Coordinates:
    r"""The coordinates V^T x in which each number is measured alone, or not at all.

    With the singular value decomposition R^(-1/2) A = U S V^T of the operator in units of the
    noise, z = S^-1 U^T R^(-1/2) y is V^T x plus independent noise of standard deviation 1 / S
    (Kawar et al. 2022, arXiv 2201.11793, section 4). Where nodes are measured, V is the identity
    and nothing is decomposed, whatever the mask.

    Args:
        measurement: Measurements of some records.
        count: Number of members of each, which follow each other in fields that are transformed.

    Attributes:
        seen: Coordinates (batch, value) that are measured.
        values: Measured values z (batch, value), zero where there is none.
        noise_std: Standard deviation (batch, value) of their noise, infinite where there is none.

    Raises:
        InputError: If the operator is not of nodes, and the fields have more than 4096 values.
    """

    def __init__(self, measurement: Measurement, count: int = 1) -> None:
        self.count, self._shape = count, measurement.shape
        self._basis: Tensor | None = None
        if measurement.operator.is_identity:
            scale = 1.0 if measurement.scale is None else measurement.scale
            self.seen = measurement.mask.flatten(1)
            self.values = (measurement.values / scale).flatten(1)
            noise = (measurement.noise_std / scale).flatten(1)
        else:
            singular, self.values, self._basis = _decomposed(measurement)
            self.seen, noise = singular > _LEAST, 1.0 / singular
        self.noise_std = torch.where(self.seen, noise, torch.inf)
        self.values = torch.where(self.seen, self.values, 0.0)

    def into(self, fields: Tensor) -> Tensor:
        """Return the coordinates (member, batch, value) of fields (member * batch, channel, node).

        Differentiable.
        """
        flat = fields.reshape(self.count, self._shape[0], -1)
        return flat if self._basis is None else torch.einsum("bvn,mbn->mbv", self._basis, flat)

    def back(self, values: Tensor) -> Tensor:
        """Return the fields (member * batch, channel, node) of coordinates; see `into`."""
        if self._basis is not None:
            values = torch.einsum("bvn,mbv->mbn", self._basis, values)
        return values.reshape(-1, *self._shape[1:])

    def misfit(self, fields: Tensor) -> Tensor:
        """Return z - V^T x (member, batch, value), zero where nothing is measured."""
        return torch.where(self.seen, self.values - self.into(fields), 0.0)


def _decomposed(measurement: Measurement) -> tuple[Tensor, Tensor, Tensor]:
    """Return singular values, z (batch, value) and V^T (batch, value, value) of each record."""
    batch, channels, nodes = measurement.shape
    size = channels * nodes
    if size > _MOST_VALUES:
        raise InputError(
            f"{measurement.operator!r} on {size} values needs their singular value decomposition, "
            f"which is for at most {_MOST_VALUES}; measure nodes, or use a sampler that follows "
            "the gradient of the misfit, such as DPS."
        )
    unit = torch.eye(size, dtype=torch.float64, device=measurement.values.device)
    image = measurement.operator.apply(unit.reshape(size, channels, nodes))
    matrix = image.flatten(1).T  # (channel * observation, channel * node)
    weight = (measurement.mask / measurement.noise_std).flatten(1).double()
    scale = measurement.scale
    whitened = weight[:, :, None] * matrix
    if scale is not None:
        whitened = whitened * scale.flatten(1)[:, None].double()
    left, singular, basis = torch.linalg.svd(whitened, full_matrices=True)
    rank = singular.shape[1]
    values = torch.einsum("bow,bo->bw", left[..., :rank], weight * measurement.values.flatten(1))
    all_singular, all_values = (torch.zeros(batch, size).to(singular) for _ in range(2))
    all_singular[:, :rank] = singular
    all_values[:, :rank] = values / singular.clamp(min=_LEAST)
    like = measurement.values
    return all_singular.to(like), all_values.to(like), basis.to(like)
