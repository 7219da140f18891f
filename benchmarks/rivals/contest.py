"""A contest: methods, and the measurements that all of them are given."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from apsgeo.baselines.iterative import Iterative
from apsgeo.flows.flow import Flow
from apsgeo.flows.generator import Generator
from apsgeo.measurement import Draws, Measurement, Method
from apsgeo.metrics import scores
from apsgeo.metrics.table import Row
from apsgeo.posterior import Posterior
from benchmarks.views import Index, seen

__all__ = ["ByCase", "Case", "Contest", "Job", "Result", "run_job"]

Array = NDArray[np.float64]

_LEVELS = {"covered50": 0.5, "covered90": 0.9}
_SIGMA, _PAD = 1.5, 5  # pixels of the window of SSIM: its deviation, and how far it reaches


class Job(NamedTuple):
    """One field, given to one method."""

    case: str
    method: str
    field: int


@dataclass(frozen=True)
class ByCase:
    """A method that has a network of its own for each way of measuring.

    Attributes:
        networks: Methods by the number of observations of what they were trained for.
        name: Name in tables.
    """

    networks: Mapping[int, Method]
    name: str

    def of(self, measurement: Measurement) -> Method:
        """Return the method for a measurement."""
        return self.networks[measurement.operator.num_observations]

    def posterior(self, measurement: Measurement) -> Draws:
        """Return draws of the fields behind measurements."""
        return self.of(measurement).posterior(measurement)


@dataclass(frozen=True)
class Case:
    """Fields that are measured in one way.

    Attributes:
        name: Name in the table.
        truth: Fields (field, channel, node), in the units of the data.
        given: Their measurements; a field's members are seeded by its key.
        weights: Weights (field, channel * node) of the scores, zero where a value does not count.
        view: Node at each pixel of a picture of a field, -1 where there is none.
        data_range: Range of PSNR and SSIM, where pictures are compared.
        normal: Normals (field, node) that pictures are without, if any.
        colours: Colour map of pictures.
    """

    name: str
    truth: Tensor
    given: Measurement
    weights: Array
    view: Index
    data_range: float | None = None
    normal: Array | None = None
    colours: str = "RdBu_r"

    def picture(self, values: NDArray[Any], field: int) -> Array:
        """Return the picture (row, column) of a field's values (node,), without its normal."""
        if self.normal is not None:
            values = values - self.normal[field]
        return seen(self.view, values.astype(np.float64))


@dataclass(frozen=True)
class Contest:
    """Methods on the same measurements.

    Attributes:
        cases: Cases, in the order of the table.
        methods: Methods of fields in the units of the data, by name, in the order of the table.
        few: Number of fields of each method that is given fewer than all.
        fewer_members: Number of members of each method that draws fewer than all.
        train_seconds: Seconds of the processor that the training of each method took.
        reference: Method that the others are compared with.
        first: Number of fields, the first ones, that are tried; all by default.
    """

    cases: Sequence[Case]
    methods: Mapping[str, Method]
    few: Mapping[str, int] = field(default_factory=dict)
    fewer_members: Mapping[str, int] = field(default_factory=dict)
    train_seconds: Mapping[str, float] = field(default_factory=dict)
    reference: str = "APS"
    first: int | None = None

    def jobs(self) -> list[Job]:
        """Return all jobs, field by field, so that what was done so far is of all methods."""
        most = max(len(case.truth) for case in self.cases)
        most = most if self.first is None else min(most, self.first)
        return [
            Job(case.name, name, number)
            for number in range(most)
            for case in self.cases
            for name in self.methods
            if number < min(len(case.truth), self.few.get(name, most))
        ]

    def on(self, device: str) -> Contest:
        """Move all networks to a device, and return the contest."""
        single: list[Method] = []
        for method in self.methods.values():
            single += method.networks.values() if isinstance(method, ByCase) else [method]
        for method in single:
            inner = method.method if isinstance(method, Posterior) else method
            network = inner.prior if isinstance(inner, Iterative) else inner
            if isinstance(network, torch.nn.Module):
                network.to(device)
        return self


@dataclass(frozen=True)
class Result:
    """What came of a job.

    Attributes:
        row: Labels and scores.
        members: Members (member, channel, node), if they are to be kept.
        picture: The first member, and mean and standard deviation of all, (3, channel, node), of
            the first field.
    """

    row: Row
    members: NDArray[np.float32] | None = None
    picture: NDArray[np.float32] | None = None


def run_job(
    contest: Contest, job: Job, *, members: int, seed: int, device: str = "cpu", keep: bool = False
) -> Result:
    """Draw the members of one field, and score them.

    All that is random follows from the seed, the field's key and the member's number. The seconds
    are those of everything that a measurement costs, a factorization for its mask included.
    """
    case = next(each for each in contest.cases if each.name == job.case)
    method, count = contest.methods[job.method], contest.fewer_members.get(job.method, members)
    given = case.given[job.field : job.field + 1]
    method = method.of(given) if isinstance(method, ByCase) else method
    truth = case.truth[job.field].flatten().double().numpy()
    _reset_peak()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        drawn = method.posterior(_placed(given, method, device)).members(count, seed)[:, 0].cpu()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    row: dict[str, Any] = {
        **job._asdict(),
        "seed": seed,
        "members": count,
        "evaluations": _evaluations(method, count),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mb": _peak_mb(),
        "train_seconds": contest.train_seconds.get(job.method, 0.0),
    }
    flat = drawn.flatten(1).double().numpy()
    row |= _scores(flat, truth, case.weights[job.field], int(given.key[0]))
    if case.data_range is not None:
        row |= _likeness(flat.mean(0), truth, case, job.field)
    picture = None
    if job.field == 0:
        picture = torch.stack([drawn[0], drawn.mean(0), drawn.std(0)]).float().numpy()
    return Result(row, drawn.float().numpy() if keep else None, picture)


def _placed(given: Measurement, method: Method, device: str) -> Measurement:
    """Return a measurement where a method wants it: iterative samplers on their device."""
    inner = method.method if isinstance(method, Posterior) else method
    return given.to(torch.device(device)) if isinstance(inner, Iterative) else given


def _evaluations(method: Method, members: int) -> int:
    """Return the number of evaluations of a network for each field, gradients among them."""
    inner = method.method if isinstance(method, Posterior) else method
    if isinstance(inner, Iterative):
        return inner.steps * inner.evaluations
    return members if isinstance(inner, Generator) else int(isinstance(inner, Flow))


def _scores(members: Array, truth: Array, weights: Array, key: int) -> dict[str, float]:
    counted = np.flatnonzero(weights)
    node = np.random.default_rng(key % 2**63).integers(len(counted))
    members, truth, weights = members[:, counted], truth[counted], weights[counted]
    mean = members.mean(0)
    total = weights / weights.sum()
    return {
        "crps": float(scores.weighted_mean(scores.crps_ensemble(members, truth), weights)),
        "energy": float(scores.energy_score(members, truth, weights)),
        "square_of_mean": float(scores.mse(mean, truth, weights)),
        "square_of_one": float(scores.mse(members, truth, weights).mean()),
        "variance": float(scores.weighted_mean(scores.ensemble_variance(members), weights)),
        **{
            name: float(scores.weighted_mean(scores.covered(members, truth, level), weights))
            for name, level in _LEVELS.items()
        },
        "rank": int((members[:, node] < truth[node]).sum()),  # of one value of the field
        "off_in_mean": float(abs(total @ (mean - truth))),
    }


def _likeness(mean: Array, truth: Array, case: Case, field: int) -> dict[str, float]:
    """Return PSNR and SSIM (Wang et al. 2004, doi:10.1109/TIP.2003.819861) of the mean's picture.

    Pixels without a node are not counted.
    """
    inside = case.view >= 0
    pair = [case.picture(values, field) for values in (truth, mean)]
    window = {"gaussian_weights": True, "sigma": _SIGMA, "use_sample_covariance": False}
    filled = [np.where(inside, each, 0.0) for each in pair]
    found = structural_similarity(*filled, data_range=case.data_range, full=True, **window)[1]
    middle = (slice(_PAD, -_PAD),) * 2  # as skimage counts, without the borders of the picture
    seen_by = [each[inside] for each in pair]
    return {
        "psnr": float(peak_signal_noise_ratio(*seen_by, data_range=case.data_range)),
        "ssim": float(found[middle][inside[middle]].mean()),
    }


def _reset_peak() -> None:
    """Let the peak of memory count anew, where Linux and CUDA allow."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_mb() -> float:
    """Return the greatest resident memory of the process, and of the GPU, in MB."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        host = float(lines.get("VmHWM", f"{1024 * host} kB").split()[0]) / 1024.0
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return host + device
