"""Threads for work that is numpy's: one field or trial each, without threads below them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

__all__ = ["workers"]


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of as many threads as torch would use; each has one thread of BLAS's.

    BLAS's own threads, started from several at once, wait for each other: seven times slower.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, threadpool_limits(1):
        yield pool
