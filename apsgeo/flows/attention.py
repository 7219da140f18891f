"""A network that reads all observations of a field together, by attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ObservationEncoder"]

_FAR = -1e4  # stands for minus infinity, where nothing is observed
_HEADS = 4


class ObservationEncoder(nn.Module):
    """A transformer over the observed values of each field (Vaswani et al. 2017, arXiv 1706.03762).

    Attention compares observations pairwise, as the Gram matrix of kriging does; a convolutional
    network has to carry sparse values across the grid first.

    Args:
        inputs: Number of features of an observation.
        outputs: Number of features that come back for each observation.
        width: Width of the tokens.
        layers: Number of layers of the transformer.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        layer = nn.TransformerEncoderLayer(
            width,
            _HEADS,
            2 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.leave = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Map the tokens (batch, observation, inputs) that are `seen` to features.

        Returns:
            Features (batch, observation, outputs), zero where not seen; and a tenth of their sum
            and their maximum over the observations (batch, 2 outputs), zero where none is seen.
        """
        features = self.leave(self.layers(self.enter(tokens), src_key_padding_mask=~seen))
        present = seen[..., None]
        features = torch.where(present, features, 0.0)
        greatest = torch.where(present, features, _FAR).amax(1)
        greatest = torch.where(present.any(1), greatest, 0.0)
        return features, torch.cat([features.sum(1) / 10.0, greatest], dim=1)
