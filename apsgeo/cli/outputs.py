"""What the command writes, and what it says beforehand."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apsgeo.console import report
from apsgeo.errors import InputError

if TYPE_CHECKING:
    from apsgeo.statistics import Statistic

__all__ = [
    "Append",
    "DryRun",
    "Regions",
    "Statistics",
    "foretold",
    "forget_beside",
    "identity",
    "kept_beside",
    "plan_of",
    "say_plan",
    "statistics_asked",
]

Statistics = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Write these in place of the members: mean, std, median, q05, q95, 'p>0', 'p<273.15', "
        "area, log_q, ess, joined by commas.",
        show_default=False,
    ),
]
Regions = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="NAME=S,N,W,E",
        help="Box of degrees for the statistic area; may be repeated. All there is by default.",
        show_default=False,
    ),
]
Append = Annotated[
    bool,
    typer.Option("--append", help="Add the records that an output lacks, drawing no others."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, how long and in what memory.")
]

_MEMBERS = 9  # that are drawn of one record to time the others


def statistics_asked(names: str | None, regions: Sequence[str] | None) -> list[Statistic] | None:
    """Return the statistics that the options name; None for the members themselves.

    Raises:
        InputError: If a name or a region cannot be read, or regions are given without "area".
    """
    if names is None:
        if regions:
            raise InputError("--region is for --statistics area; give both")
        return None
    from apsgeo.statistics import AreaMean, Box, statistics_of

    boxes = {}
    for each in regions or []:
        name, _, text = each.partition("=")
        try:
            south, north, west, east = map(float, text.split(","))
        except ValueError as error:
            raise InputError(
                f"--region {each} cannot be read; expected NAME=SOUTH,NORTH,WEST,EAST, such as "
                "europe=35,70,-10,40"
            ) from error
        boxes[name] = Box(south, north, west, east)
    found = statistics_of(names, boxes)
    if boxes and not any(isinstance(one, AreaMean) for one in found):
        raise InputError("--region is for --statistics area; give both")
    return found


def identity(command: str, paths: Sequence[Path], model: str | None) -> str:
    """Return a text that changes with the command, its files and the model, by which it resumes."""
    stats = [(str(path), each.st_size, each.st_mtime_ns) for path in paths for each in _stats(path)]
    text = json.dumps([command, stats, model])
    return hashlib.sha256(text.encode()).hexdigest()


def kept_beside(path: Path, command: str, sources: Sequence[Path]) -> Path:
    """Return the hidden folder of the state of a training, beside the model that it makes."""
    return path.parent / f".{path.name}.{identity(command, sources, None)[:12]}.training"


def forget_beside(path: Path) -> None:
    """Delete the states of trainings of a model that was made."""
    for folder in path.parent.glob(f".{path.name}.*.training"):
        shutil.rmtree(folder, ignore_errors=True)


def _stats(path: Path) -> Iterator[Any]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    yield from (file.stat() for file in files if file.exists())


def plan_of(ensemble: Any, draw_few: Callable[[int], Any], members: int) -> dict[str, Any]:
    """Draw a few members of one record, and say what all of them will take.

    Args:
        ensemble: Lazy members, or statistics.
        draw_few: Function that draws so many members of the first record.
        members: Size of the ensemble.
    """
    from apsgeo.labels.times import record_dims
    from apsgeo.output.write import dataset_of

    dataset = dataset_of(ensemble)
    first = next(iter(dataset.data_vars.values()))
    dims = record_dims(first)
    records = first.sizes[dims[0]] if dims else 1
    draw_few(1)  # what is prepared once is not in the measured time
    one, more = (_seconds(partial(draw_few, count)) for count in (1, _MEMBERS))
    each = max(more - one, 0.0) / (_MEMBERS - 1)
    per_record = max(one - each, 0.0) + members * each
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    block = max(
        (array.dtype.itemsize * _largest_block(array) for array in dataset.data_vars.values()),
        default=0,
    )
    return {
        "records": records,
        "members": members,
        "variables": {str(name): dict(array.sizes) for name, array in dataset.data_vars.items()},
        "output_bytes": dataset.nbytes,
        "seconds": round(records * per_record, 1),
        "peak_bytes": int(peak + 3 * block),
    }


def _largest_block(array: Any) -> int:
    size = 1
    for blocks in array.chunks or ((length,) for length in array.shape):
        size *= max(blocks)
    return size


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def say_plan(plan: Mapping[str, Any]) -> None:
    """Print a plan."""
    from apsgeo.diffusion.foretell import minutes

    shapes = "; ".join(
        f"{name} ({', '.join(f'{dim} {size}' for dim, size in sizes.items())})"
        for name, sizes in plan["variables"].items()
    )
    report(
        f"plan: {plan['records']} records, {plan['members']} members each: {shapes}\n"
        f"time: about {minutes(plan['seconds'])}\n"
        f"memory: about {plan['peak_bytes'] / 2**30:.1f} GiB\n"
        f"output: {plan['output_bytes'] / 2**20:.0f} MiB before compression",
        event="plan",
        **plan,
    )


class _Foretold(Exception):
    """What was said before the work."""


@contextmanager
def foretold(verb: str, dry_run: bool) -> Iterator[None]:
    """Stop once a verb has said how long it will take, if that is all that is asked for."""
    if not dry_run:
        yield
        return
    from apsgeo.progress import reported

    def sink(record: Mapping[str, Any]) -> None:
        if str(record.get("message", "")).startswith(f"{verb}: "):
            raise _Foretold(record["message"])

    try:
        with reported(sink):
            yield
    except _Foretold as said:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        report(
            f"{said}\nmemory: {peak:.1f} GiB so far; training takes as much again",
            event="plan",
            message=str(said),
            peak_bytes=int(peak * 2**30),
        )
        raise typer.Exit from said
