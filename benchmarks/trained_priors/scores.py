"""What is measured of a trained prior on fields that it has never seen, and of its samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.diffusion.estimate import Estimate
from apsgeo.diffusion.power import band_edges
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.diffusion.samplers import DPMSolver
from apsgeo.domains import Domain

Array = NDArray[np.float64]
METHODS = ("elbo", "anchored", "ode")
CHUNK = 16  # fields at once


@dataclass(frozen=True)
class Budget:
    """How much is spent on the scores of one data set.

    Attributes:
        denoised: test fields whose denoising is scored at every level of noise.
        fields: test fields whose log-density is estimated by (a) and (b).
        passes: of (a) and (b) for each.
        flow_fields: the first of them whose log-density is found by (c).
        probes: of Hutchinson's trace in (c).
        tolerance: of the integration in (c).
        samples: unconditional samples.
        steps: of the sampler.
        eigenfunctions: the most that power is compared on; never above a quarter of the nodes, so
            that waves are at least four nodes long.
    """

    denoised: int = 256
    fields: int = 64
    passes: int = 4
    flow_fields: int = 8
    probes: int = 4
    tolerance: float = 1e-4
    samples: int = 256
    steps: int = 40
    eigenfunctions: int = 1024


@dataclass(frozen=True)
class Score:
    """One number of the tables.

    Attributes:
        table: "denoising", "density", "spectrum" or "memorization".
        key: the level of noise, the band, or nothing.
        name: of what was measured.
        value: of it.
        standard_error: of the value, NaN if it has none.
    """

    table: str
    key: str
    name: str
    value: float
    standard_error: float = field(default=math.nan)


def denoising(prior: DiffusionPrior, fields: Tensor, generator: torch.Generator) -> list[Score]:
    """Compare the denoising of fields (record, 1, node) with the anchor's, on the same noise.

    "ratio" is mse(network) / mse(Gaussian), its standard error that of the paired difference over
    records, and the key the level's noise_std = sigma / alpha.
    """
    rows = []
    for level, log_snr in enumerate(prior.log_snr):
        errors = []
        for x0 in fields.split(CHUNK):
            each = log_snr.expand(len(x0))
            with torch.no_grad():
                x_t, _ = prior.perturb(x0, each, generator)
                mean = prior.anchor_mean(x_t, each)
                change = prior.correction(x_t, mean, each)
            error = (x0 - mean).double()
            errors.append(torch.stack([_mean_square(error), _mean_square(error - change)]))
        gaussian, network = torch.cat(errors, 1).numpy()
        base = gaussian.mean()
        ratio = network.mean() / base
        # of the ratio of two means, to first order
        spread = _standard_error(network - ratio * gaussian) / base
        key = f"{prior.noise_std[level]:.4g}"
        rows += [
            Score("denoising", key, "gaussian", float(base)),
            Score("denoising", key, "ratio", float(ratio), spread),
        ]
    return rows


def densities(
    prior: DiffusionPrior, fields: Tensor, budget: Budget, generator: torch.Generator
) -> list[Score]:
    """Estimate log-densities in nats a value: the Gaussian's, (a), (b) and (c), and differences.

    Standard errors are over the fields, with the error of levels and noise that fields share.
    "METHOD - gaussian" and "ode - elbo" (the gap of the ELBO) are means of differences on the same
    fields: those of (c) alone where it takes part.
    """
    if prior.anchor is None:
        raise ValueError("the prior has no anchor")
    anchor, some = prior.anchor, fields[: budget.fields]
    dims = some[0].numel()
    gaussian = anchor.log_prob(some.double()).double() / dims
    found = {"gaussian": gaussian[None]}
    calls: dict[str, Callable[[Tensor], Estimate]] = {
        "elbo": lambda x: prior.elbo(x, generator=generator),
        "anchored": lambda x: prior.anchored_log_prob(x, generator=generator),
    }
    with torch.no_grad():
        for name, call in calls.items():
            passes = [
                torch.cat([call(x.double()).value for x in some.split(CHUNK)])
                for _ in range(budget.passes)
            ]
            found[name] = torch.stack(passes) / dims
    few = some[: budget.flow_fields]
    flow = prior.ode_log_prob(
        few, probes=budget.probes, tolerance=budget.tolerance, generator=generator
    )
    found["ode"] = flow.value[None] / dims
    chance = float(flow.standard_error.square().mean().sqrt()) / dims
    rows = []
    for name, each in found.items():
        rows.append(_density(name, each, chance if name == "ode" else 0.0))
        if name != "gaussian":
            both = each - gaussian[: each.shape[1]]
            rows.append(_density(f"{name} - gaussian", both, chance if name == "ode" else 0.0))
    gap = found["ode"] - found["elbo"][:, : len(few)]
    return [*rows, _density("ode - elbo", gap, chance)]


def draw(
    prior: DiffusionPrior, count: int, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw ``count`` samples (count, 1, node) of a diffusion prior and of its anchor."""
    if prior.anchor is None:
        raise ValueError("the prior has no anchor")
    samples = DPMSolver(steps).sample(prior, count, at_once=CHUNK, generator=generator)
    return samples, prior.anchor.sample(count, generator).float()


def bands(eigenfunctions: int) -> list[slice]:
    """Return the bands of `band_edges`."""
    return [slice(a, b) for a, b in pairwise([0, *band_edges(eigenfunctions)])]


def band_power(domain: Domain, fields: Tensor, eigenfunctions: int) -> Array:
    """Return the mean square (record, band) of the coefficients of fields on the eigenbasis."""
    functions = domain.eigenbasis(eigenfunctions)[1]
    coefficients = fields[:, 0].double() @ (domain.areas[:, None] * functions)
    square = coefficients.square().numpy()
    return np.stack([square[:, band].mean(1) for band in bands(eigenfunctions)], axis=1)


def spectra(
    domain: Domain, sets: dict[str, Tensor], eigenfunctions: int, block: int
) -> list[Score]:
    """Compare the power of sets of fields with that of the training fields, by band.

    Args:
        domain: where they live.
        sets: by name, (record, 1, node), "train" among them.
        eigenfunctions: how many of the smoothest.
        block: consecutive records of data that count as one in its sampling error.
    """
    most = min(eigenfunctions, domain.num_nodes // 4)
    values, _ = domain.eigenbasis(most)
    powers = {}
    for name, fields in sets.items():
        power = band_power(domain, fields, most)
        size = block if name in ("train", "test") else 1
        powers[name] = power[: len(power) // size * size].reshape(-1, size, power.shape[1]).mean(1)
    rows = []
    for index, band in enumerate(bands(most)):
        middle = float(values[band].mean().sqrt())
        key = f"{2.0 * math.pi / middle:.4g}"  # wavelength, in the domain's unit of length
        base = powers["train"][:, index]
        rows.append(Score("spectrum", key, "train", base.mean(), _standard_error(base)))
        for name in powers:
            if name == "train":
                continue
            for reference in ("train", "test"):
                if name == reference:
                    continue
                value, spread = _ratio(powers[name][:, index], powers[reference][:, index])
                rows.append(Score("spectrum", key, f"{name} / {reference}", value, spread))
    return rows


def memorization(domain: Domain, samples: Tensor, test: Tensor, train: Tensor) -> list[Score]:
    """Compare the distance to the nearest training field of samples and of test fields.

    The distance is the root mean square by area of the difference of standardized anomalies.
    """
    near = {"samples": nearest(domain, samples, train), "test": nearest(domain, test, train)}
    rows = []
    for name, distance in near.items():
        rows += [
            Score("memorization", "", f"{name}, median", float(np.median(distance))),
            Score("memorization", "", f"{name}, least", float(distance.min())),
        ]
    ratio = np.median(near["samples"]) / np.median(near["test"])
    return [*rows, Score("memorization", "", "ratio of medians", float(ratio))]


def nearest(domain: Domain, fields: Tensor, train: Tensor) -> Array:
    """Return the distance (record,) of each field to the nearest training field."""
    root = (domain.areas / domain.areas.sum()).sqrt()
    kept = train[:, 0].double() * root
    distance = [torch.cdist(x[:, 0].double() * root, kept).amin(1) for x in fields.split(64)]
    return torch.cat(distance).numpy()


def _density(name: str, values: Tensor, chance: float) -> Score:
    """Return the mean of values (pass, field), with the error of fields and of passes."""
    square = _standard_error(values.mean(0).numpy()) ** 2 + chance**2 / values.shape[1]
    if len(values) > 1:
        square += _standard_error(values.mean(1).numpy()) ** 2
    return Score("density", "", name, float(values.mean()), math.sqrt(square))


def _ratio(first: Array, second: Array) -> tuple[float, float]:
    """Return the ratio of means, and its standard error to first order."""
    ratio = first.mean() / second.mean()
    relative = [_standard_error(each) / each.mean() for each in (first, second)]
    return float(ratio), float(ratio * math.hypot(*relative))


def _standard_error(values: Array) -> float:
    """Return that of the mean of values, infinite of a single one."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def _mean_square(values: Tensor) -> Tensor:
    return values.square().flatten(1).mean(1)
