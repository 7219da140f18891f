"""``apsgeo bench``: the benchmarks of a checkout."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from apsgeo.errors import InputError

__all__ = ["EXAMPLE", "bench"]

EXAMPLE = "apsgeo bench climate --device auto --members 16"


def bench(
    context: typer.Context,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="Such as speed or climate.")],
) -> None:
    """Run a benchmark of a checkout, in its root.

    `python -m benchmarks SUITE --help` says what a suite does, and lists its options. Suites that
    compare methods take --members, --device, and --scheduler with the address of a dask cluster;
    without it they start one on this machine, with a worker for each GPU if there are any.
    """
    try:
        main = import_module("benchmarks.__main__").main
    except ModuleNotFoundError as error:
        if error.name != "benchmarks":
            raise
        raise InputError(
            "there are no benchmarks here; run this in the root of a checkout of apsgeo, which has "
            "the folder benchmarks/."
        ) from error
    main([suite, *context.args])
