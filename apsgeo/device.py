"""Where work runs: the device of networks, the threads of numpy."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from apsgeo.errors import InputError

__all__ = ["choose_device", "on_device", "workers"]


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


@contextmanager
def on_device(device: torch.device, *modules: nn.Module | None) -> Iterator[None]:
    """Within the context the modules are on a device; after it, where they were before."""
    present = [module for module in modules if module is not None]
    homes = [next(module.parameters()).device for module in present]
    for module in present:
        module.to(device)
    try:
        yield
    finally:
        for module, home in zip(present, homes, strict=True):
            module.to(home)


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of as many threads as torch would use; each has one thread of BLAS's.

    BLAS's own threads, started from several at once, wait for each other: seven times slower.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, threadpool_limits(1):
        yield pool
