"""The state of a training run on disk, from which a killed run goes on as if nothing had been."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apsgeo.errors import InputError

__all__ = [
    "digest",
    "load_checkpoint",
    "load_module",
    "optimizer_from_tensors",
    "optimizer_to_tensors",
    "save_checkpoint",
]

_KIND = "checkpoint"


def save_checkpoint(
    path: str | os.PathLike[str], options: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write the state of a run, atomically, in place of an earlier one.

    Args:
        path: The folder, of JSON and safetensors.
        options: What identifies the run: `load_checkpoint` refuses the folder to other options.
        tensors: All that the next step depends on.

    Raises:
        OutputExistsError: If ``path`` holds something other than a model folder.
    """
    from apsgeo.io import save_folder

    save_folder(path, _KIND, options, tensors, overwrite=True)


def load_checkpoint(
    path: str | os.PathLike[str], options: Mapping[str, Any]
) -> dict[str, Tensor] | None:
    """Return the tensors of `save_checkpoint`, or None if there is no such folder yet.

    Raises:
        InputError: If the saved run had other options.
        ModelError: If the folder is damaged, or of another kind.
    """
    from apsgeo.io import load_folder

    if not Path(path).exists():
        return None
    saved, tensors = load_folder(path, _KIND)
    for name in sorted(saved.keys() | options.keys()):
        if saved.get(name) != options.get(name):
            raise InputError(
                f"the checkpoint {path} is of a run with {name}={saved.get(name)!r}, this one has "
                f"{name}={options.get(name)!r}; give the same options, or another folder"
            )
    return tensors


def digest(*tensors: Tensor) -> str:
    """Return a checksum of values, by which a checkpoint knows its data."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def optimizer_to_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the moments of an optimizer by parameter, ``"0.exp_avg"`` and so on."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{index}.{name}": t for index, each in state.items() for name, t in each.items()}


def optimizer_from_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_to_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def load_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write parameters and buffers into a module.

    Raises:
        InputError: If they are those of another network.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise InputError(
            f"the checkpoint does not fit the network: {error}; give another folder"
        ) from error
