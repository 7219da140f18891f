"""Where networks run."""

from __future__ import annotations

import torch

from apsgeo.errors import InputError

__all__ = ["choose_device"]


def choose_device(device: str = "auto") -> torch.device:
    """Return the device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: If there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={device!r} cannot be used here ({error}); give 'auto', 'cpu' or 'cuda'."
        ) from error
    return torch.device(device)
