"""Data-parallel training: each process takes its share of every batch, gradients are averaged.

All processes draw the whole batch from the same generator and keep the rows of their share, so
that several processes make the steps of one, up to rounding. Without `torchrun` there is one
process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from apsgeo.errors import InputError

__all__ = ["agreed", "average_gradients", "data_parallel", "is_first", "share_of"]


@contextmanager
def data_parallel() -> Iterator[None]:
    """Within the context the processes that `torchrun` started train together.

    They talk by NCCL where each has a CUDA device of its own, otherwise by gloo. Nothing is done
    if `torchrun` did not start the process, or if a group is there already.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    cuda = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Tell whether this process writes files and shows progress: one of them all does."""
    return _count() == 1 or dist.get_rank() == 0


def share_of(batch: int) -> slice:
    """Return which rows of a batch are this process's.

    Raises:
        InputError: If the processes do not divide the batch evenly.
    """
    count = _count()
    if batch % count:
        raise InputError(
            f"a batch of {batch} was given to {count} processes; give a multiple of {count}"
        )
    each = batch // count
    first = each * dist.get_rank() if count > 1 else 0
    return slice(first, first + each)


def average_gradients(parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Put the mean over the processes into ``.grad``, and return that of the loss ()."""
    count = _count()
    if count == 1:
        return loss
    trained = list(parameters)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    flat = torch.cat([loss.reshape(1).to(found[0]), *(grad.flatten() for grad in found)])
    dist.all_reduce(flat)
    flat /= count
    sizes = [1, *(p.numel() for p in trained)]
    mean, *parts = flat.split(sizes)
    for parameter, part in zip(trained, parts, strict=True):
        parameter.grad = part.reshape(parameter.shape)
    return mean[0]


def agreed(number: float, like: Tensor) -> float:
    """Return the number of the first process, in all of them; ``like`` is on its device."""
    if _count() == 1:
        return number
    shared = torch.tensor([number], dtype=torch.float64, device=like.device)
    dist.broadcast(shared, 0)
    return float(shared)
