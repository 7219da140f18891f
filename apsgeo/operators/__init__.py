"""How a signal was measured: y = A x + n.

A new operator is one new file and its name in `OPERATORS`.
"""

from typing import Any

from apsgeo.io import of_kind
from apsgeo.operators.base import Operator, RandomMask
from apsgeo.operators.block import Block
from apsgeo.operators.blur import GaussianBlur
from apsgeo.operators.cells import CellMeans
from apsgeo.operators.combine import Compose, Stack
from apsgeo.operators.downsample import Downsample
from apsgeo.operators.families import GaussianBlurs, OneOf
from apsgeo.operators.gaps import Gaps
from apsgeo.operators.identity import Identity
from apsgeo.operators.linear import LinearMap
from apsgeo.operators.mask import Mask
from apsgeo.operators.points import PointSample
from apsgeo.operators.spectral import SpectralTruncation
from apsgeo.operators.swath import Swath

__all__ = [
    "OPERATORS",
    "Block",
    "CellMeans",
    "Compose",
    "Downsample",
    "Gaps",
    "GaussianBlur",
    "GaussianBlurs",
    "Identity",
    "LinearMap",
    "Mask",
    "OneOf",
    "Operator",
    "PointSample",
    "RandomMask",
    "SpectralTruncation",
    "Stack",
    "Swath",
    "from_config",
]

OPERATORS: list[type[Operator]] = [
    Mask,
    Swath,
    Block,
    Gaps,
    Identity,
    Downsample,
    CellMeans,
    GaussianBlur,
    PointSample,
    SpectralTruncation,
    Compose,
    Stack,
    OneOf,
    GaussianBlurs,
]


def from_config(config: dict[str, Any]) -> Operator:
    """Rebuild the operator that `Operator.to_config` described.

    Raises:
        ModelError: If the configuration's `kind` is not that of an operator known here.
    """
    values = {name: value for name, value in config.items() if name != "kind"}
    if "operators" in values:
        values["operators"] = tuple(map(from_config, values["operators"]))
    return of_kind(OPERATORS, config, "operator")(**values)
