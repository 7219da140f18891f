"""Jobs of a contest on a dask cluster: results come one by one, and a run that was stopped goes on.

A worker is sent the files of the models once, when it starts, and opens them once. A job is a
function of the contest, the seed and its own three names, so that it does not matter which worker
does it, or how often: what a killed worker had is done again, and any row can be made again alone.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dask.distributed import (
    Client,
    LocalCluster,
    Nanny,
    Scheduler,
    SpecCluster,
    Worker,
    WorkerPlugin,
    as_completed,
    get_worker,
)
from tqdm import tqdm

from apsgeo.device import choose_device
from apsgeo.metrics.table import Row, write_rows
from benchmarks.rivals.contest import Contest, Job, Result, run_job

__all__ = ["COLUMNS", "Run", "read_rows", "run_jobs"]

COLUMNS = (
    *("case", "method", "field", "seed", "members", "crps", "energy", "square_of_mean"),
    *("square_of_one", "variance", "covered50", "covered90", "rank", "off_in_mean", "psnr", "ssim"),
    *("evaluations", "seconds", "cpu_seconds", "peak_mb", "train_seconds"),
)
"""Columns of the rows, of which those from ``evaluations`` on differ from run to run."""
_TEXTS = ("case", "method")
_WHOLE = ("field", "seed", "members", "rank", "evaluations")

Open = Callable[[Path], Contest]
"""A function that opens the contest of a folder of models; importable, or a `partial` of one."""


@dataclass(frozen=True)
class Run:
    """How a contest is run.

    Attributes:
        models: Folder of the models that the contest is opened with.
        folder: Folder of the results: ``rows.csv``, and ``pictures`` of the first fields.
        members: Number of members of each field.
        seed: Seed of the members.
        device: Device of the networks: "auto", "cpu" or "cuda".
        scheduler: Address of a dask scheduler; None for a cluster of this machine.
        workers: Number of workers of this machine; of GPUs, there is one for each.
        threads: Number of threads of a worker.
        zarr: Zarr store that all members are kept in, or None.
        progress: Whether to show a bar, with the time left.
    """

    models: Path
    folder: Path
    members: int = 16
    seed: int = 0
    device: str = "auto"
    scheduler: str | None = None
    workers: int = 1
    threads: int = 1
    zarr: Path | None = None
    progress: bool = True


@dataclass
class _Kit(WorkerPlugin):
    """The models, sent to a worker once: their files, and how the contest is opened with them."""

    open: Open
    files: Mapping[str, bytes]
    device: str
    threads: int
    name: str = "contest"
    contest: Contest | None = field(default=None, repr=False)

    @classmethod
    def of(cls, open: Open, run: Run) -> _Kit:
        paths = sorted(path for path in run.models.rglob("*") if path.is_file())
        files = {str(path.relative_to(run.models)): path.read_bytes() for path in paths}
        return cls(open, files, run.device, run.threads)

    def setup(self, worker: Worker) -> None:
        """Open the contest, on the worker's device."""
        torch.set_num_threads(self.threads)
        with tempfile.TemporaryDirectory() as name:
            for path, content in self.files.items():
                target = Path(name) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            self.contest = self.open(Path(name)).on(str(choose_device(self.device)))


def _work(job: Job, members: int, seed: int, device: str, keep: bool) -> Result:
    kit = get_worker().plugins["contest"]
    assert isinstance(kit, _Kit)
    assert kit.contest is not None
    place = str(choose_device(device))
    return run_job(kit.contest, job, members=members, seed=seed, device=place, keep=keep)


@contextmanager
def _client(run: Run) -> Iterator[Client]:
    """Yield a client of the cluster at an address, or of one on this machine."""
    if run.scheduler is not None:
        with Client(run.scheduler) as client:
            yield client
        return
    quiet = {"dashboard_address": None}
    gpus = torch.cuda.device_count() if choose_device(run.device).type == "cuda" else 0
    if gpus > 1:
        options: dict[str, Any] = {"nthreads": 1, **quiet}
        spec = {
            gpu: {"cls": Nanny, "options": options | {"env": {"CUDA_VISIBLE_DEVICES": str(gpu)}}}
            for gpu in range(gpus)
        }
        cluster = SpecCluster(spec, scheduler={"cls": Scheduler, "options": quiet})
    else:
        cluster = LocalCluster(n_workers=run.workers, threads_per_worker=1, **quiet)
    with cluster, Client(cluster) as client:
        yield client


def run_jobs(contest: Contest, open: Open, run: Run) -> list[Row]:
    """Do all jobs that have no row yet, and return the rows of all, in the order of the contest.

    Rows are appended to ``rows.csv`` as they come. A run that was stopped goes on from there;
    remove the folder after changes of the code.

    Args:
        contest: The contest, whose jobs are done.
        open: Function that workers open it with.
        run: How it is run.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    path, jobs = run.folder / "rows.csv", contest.jobs()
    rows = read_rows(path)
    if rows:  # without a line that was cut off
        write_rows(path, rows)
    there = {_names(row) for row in rows}
    left = [job for job in jobs if tuple(job) not in there]
    if left:
        with _client(run) as client:
            client.register_plugin(_Kit.of(open, run))
            _collect(client, contest, left, run, path)
    order = {tuple(job): number for number, job in enumerate(_in_order(contest))}
    rows = [row for row in read_rows(path) if _names(row) in order]
    return sorted(rows, key=lambda row: order[_names(row)])


def _names(row: Row) -> tuple[str, str, int]:
    return row["case"], row["method"], row["field"]


def _in_order(contest: Contest) -> list[Job]:
    """Return the jobs by case, by method, by field."""
    cases = [case.name for case in contest.cases]
    names = list(contest.methods)
    return sorted(contest.jobs(), key=lambda j: (cases.index(j.case), names.index(j.method), j[2]))


def _collect(client: Client, contest: Contest, jobs: Sequence[Job], run: Run, path: Path) -> None:
    futures = {
        client.submit(
            _work,
            job,
            run.members,
            run.seed,
            run.device,
            run.zarr is not None,
            key="/".join(map(str, job)),
            priority=-number,
        ): job
        for number, job in enumerate(jobs)
    }
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    waiting, begun = set(jobs), time.perf_counter()
    with tqdm(total=len(jobs), desc="fields", disable=not run.progress) as bar:
        for future, result in as_completed(futures, with_results=True):
            job = futures[future]
            _append(path, result.row)
            _keep(contest, job, result, run)
            future.release()
            waiting.discard(job)
            spent[job.case, job.method].append(result.row["seconds"])
            passed = time.perf_counter() - begun
            bar.set_postfix_str(f"{_left(spent, waiting, passed):.0f} s left", refresh=False)
            bar.update()


def _left(spent: Mapping[tuple[str, str], list[float]], waiting: set[Job], passed: float) -> float:
    """Estimate the seconds left, by what each method took a field, at the speed so far."""
    every = [seconds for each in spent.values() for seconds in each]
    typical = {key: float(np.mean(each)) for key, each in spent.items()}
    wanted = sum(typical.get((job.case, job.method), float(np.mean(every))) for job in waiting)
    return wanted * passed / max(sum(every), 1e-9)


def _append(path: Path, row: Row) -> None:
    fresh = not path.exists()
    texts = {
        key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()
    }
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(texts)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, numbers as numbers; none if there is no file.

    A last line that was cut off, as by a loss of power, is left out.
    """
    if not path.exists():
        return []

    def value(key: str, text: str) -> Any:
        if key in _TEXTS:
            return text
        return int(text) if key in _WHOLE else float(text or "nan")

    with path.open(newline="", encoding="utf-8") as file:
        lines = [row for row in csv.DictReader(file) if None not in row.values()]
    return [{key: value(key, text) for key, text in row.items()} for row in lines]


def _keep(contest: Contest, job: Job, result: Result, run: Run) -> None:
    """Keep the picture of a first field, and members if there is a store for them."""
    if result.picture is not None:
        folder = run.folder / "pictures"
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{picture_name(job.case, job.method)}.npy", result.picture)
    if run.zarr is not None and result.members is not None:
        import zarr

        case = next(each for each in contest.cases if each.name == job.case)
        shape = (len(case.truth), *result.members.shape)
        store = zarr.open_group(run.zarr, mode="a")
        array = store.require_array(
            picture_name(job.case, job.method),
            shape=shape,
            dtype="float32",
            chunks=(1, *shape[1:]),
            fill_value=np.nan,
        )
        array[job.field] = result.members


def picture_name(case: str, method: str) -> str:
    """Return the name of what is kept of a method on a case, fit for a file."""
    return "".join(c if c.isalnum() else "-" for c in f"{case} {method}")
