"""The shipped models, and how any saved model is opened."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from apsgeo.errors import ModelError
from apsgeo.io import read_kind

if TYPE_CHECKING:
    from apsgeo.field_prior import FieldPrior
    from apsgeo.posterior import Posterior

__all__ = ["load", "shipped"]


def shipped() -> list[str]:
    """List the names of the models that come with apsgeo."""
    return sorted(file.parent.name for file in Path(__file__).parent.glob("*/config.json"))


def load(path_or_name: str | os.PathLike[str]) -> "Posterior | FieldPrior":
    """Open a saved posterior or prior.

    Args:
        path_or_name: A model folder, or the name of a shipped model such as ``"ncep-air"``. A
            folder of that name in the working directory comes first.

    Raises:
        ModelError: If there is no such folder or shipped model, or the folder is truncated,
            altered, of a newer schema, or holds a file that is not a model's.
    """
    from apsgeo.field_prior import FieldPrior
    from apsgeo.posterior import Posterior

    path = Path(path_or_name)
    if not path.exists():
        if str(path_or_name) not in shipped():
            raise ModelError(
                f"{path_or_name} is neither a model folder nor a shipped model; "
                f"shipped are: {', '.join(shipped()) or 'none'}"
            )
        path = Path(__file__).parent / path
    match read_kind(path):
        case "posterior":
            return Posterior.load(path)
        case "prior":
            return FieldPrior.load(path)
        case other:
            raise ModelError(f"{path} holds a {other}, where a posterior or a prior is expected")
