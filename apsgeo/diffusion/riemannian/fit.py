"""Training of a diffusion prior on a manifold, by denoising score matching with heat kernels."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from apsgeo.device import choose_device, on_device
from apsgeo.diffusion.fit import is_surely_better, level_of
from apsgeo.diffusion.prior import COND_DIM
from apsgeo.diffusion.riemannian.density import MOST
from apsgeo.diffusion.riemannian.prior import RiemannianPrior
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.measurement import ValuedNormals
from apsgeo.measurement.normals import out_of_sample
from apsgeo.nn.unet import UNet
from apsgeo.optim.checkpoint import digest
from apsgeo.optim.distributed import share_of
from apsgeo.optim.loop import fit_loop
from apsgeo.optim.training import Training, seeded
from apsgeo.values.brownian import Brownian
from apsgeo.values.heat import log_heat_kernel
from apsgeo.values.manifold import Manifold
from apsgeo.values.origin import to_origin

__all__ = ["fit_riemannian", "start_riemannian", "train_riemannian"]

_VARIANCES = 48  # that the anchor's is chosen from
_LEAST_VARIANCE = 1e-5
_RECORDS = 400  # records that tell it
_FINE = 1e-3  # time at which the walk begins, in variances of the nodes
_LEAST = 1e-7
_VALUES_A_LEVEL = 40_000


def fit_riemannian(
    domain: Domain,
    normals: ValuedNormals,
    fields: Tensor,
    season: Tensor,
    held: Tensor,
    held_season: Tensor,
    *,
    size: str = "tiny",
    static: Tensor | None = None,
    seed: int = 0,
    training: Training = Training(),
) -> tuple[RiemannianPrior, list[dict[str, float]]]:
    """Fit a diffusion prior to fields on a compact manifold, and train it.

    Args:
        domain: Domain of the fields.
        normals: Normals of the fields, whose centres the prior takes for the means.
        fields: Fields (record, ambient, node) that are learned from, NaN where not valid.
        season: Index (record,) of each record's season.
        held: Fields (record, ambient, node) that choose the weights; none are the others again.
        held_season: Their seasons (record,).
        size: Size of the network, a name in `apsgeo.nn.unet.SIZES`.
        static: Static fields (field, node) of order one, which the network sees.
        seed: Seed of weights, records, times and noise.
        training: Settings.

    Returns:
        The prior, on the CPU, and the records of `train_riemannian`.

    Raises:
        InputError: If the manifold has no heat kernel in closed form.
    """
    prior = start_riemannian(domain, normals, fields, season, size, static, seed)
    learned = prior.relative(fields, season)
    judged = prior.relative(held, held_season) if len(held) else learned
    place = choose_device(training.device)
    with on_device(place, prior):
        log = train_riemannian(prior, learned.to(place), judged.to(place), training, seed=seed)
    return prior.eval(), log


def start_riemannian(
    domain: Domain,
    normals: ValuedNormals,
    fields: Tensor,
    season: Tensor,
    size: str = "tiny",
    static: Tensor | None = None,
    seed: int = 0,
) -> RiemannianPrior:
    """Return an untrained prior: nodes on their own, about the centres of the normals.

    The arguments are those of `fit_riemannian`.
    """
    manifold = normals.values.manifold
    walk, valid = Brownian(manifold), normals.valid
    points = normals.values.points(fields).double()
    points = torch.where(valid[:, None], points, walk.origin)
    centres = normals.values.points(normals.usual[0]).double()
    centres = torch.where(valid[:, None], centres, walk.origin)
    moves = to_origin(manifold, centres[:, valid], points[:, valid], season)
    whole = torch.eye(manifold.ambient).double().repeat(len(centres), len(valid), 1, 1)
    whole[:, valid] = moves
    relative = torch.einsum("rnij,rnj->rni", whole[season], points)
    wider = out_of_sample(season, normals.seasons)
    variance = _variance(manifold, walk, relative, wider)
    typical = float(variance[:, valid].median().clamp(max=1.0))
    known = torch.zeros(0, domain.num_nodes) if static is None else static
    spread = 0.5 * variance.log().float()
    known = torch.cat([known, spread - spread[:, valid].mean()])
    with seeded(seed):
        channels = RiemannianPrior.network_channels(manifold)
        network = UNet.sized(domain, *channels, size, cond_dim=COND_DIM, static=known)
    return RiemannianPrior(
        domain,
        manifold,
        whole,
        variance,
        network,
        valid=valid,
        least=max(_LEAST, _FINE * typical),
    )


def _variance(manifold: Manifold, walk: Brownian, relative: Tensor, wider: Tensor) -> Tensor:
    """Return the time (part, node) of the Brownian motion from the origin likeliest of points.

    Args:
        manifold: Manifold of the points.
        walk: Its Brownian motion.
        relative: Points (record, node, ambient) about the origin.
        wider: How much farther (record,) away those of records not learned from would be.
    """
    few = slice(None, None, math.ceil(len(relative) / _RECORDS))
    points, factor = relative[few], wider[few, None]
    times = torch.logspace(math.log10(_LEAST_VARIANCE), math.log10(MOST), _VARIANCES).double()
    found = []
    for part, x, origin in zip(
        walk.parts, walk.split(points), walk.split(walk.origin), strict=True
    ):
        images = torch.einsum("gij,j->gi", part.images, origin)
        away = [part.cover.distance(image.expand_as(x), x) for image in images]
        distance = (factor * torch.stack(away).amin(0)).clamp(max=math.pi)
        scores = [
            log_heat_kernel(part.cover, distance, time.expand_as(distance)).sum(0) for time in times
        ]
        found.append(times[torch.stack(scores).argmax(0)])
    return torch.stack(found)


class _Case(NamedTuple):
    """Held-out points at one time, the walk's score, and what the anchor makes of them."""

    clock: float
    points: Tensor
    error: Tensor


def train_riemannian(
    prior: RiemannianPrior,
    fields: Tensor,
    validation: Tensor,
    training: Training = Training(),
    *,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Train the score of a prior in place, and keep the weights best on held-out fields.

    Each step is of one time, log-uniform by levels in shuffled order, and minimises the squared
    distance of the score from that of the heat kernel, in units of `RiemannianPrior.output_std`,
    which is one at the start if the anchor is true. Levels are shrunk as those of a diffusion
    prior of numbers are; see `apsgeo.diffusion.fit.train_diffusion`.

    Args:
        prior: Prior to train, on the device of the fields.
        fields: Fields (record, ambient, node) about the origin (`RiemannianPrior.relative`).
        validation: Fields (record, ambient, node) about the origin, not trained on.
        training: Settings, by default 2000 steps of 16 fields; the device is not used.
        seed: Seed of records, times and noise.

    Returns:
        The records of `fit_loop`, then one per level: ``level``, ``log_snr`` (that of the variance
        of one squared radius), ``noise_std`` (in radii), ``mse_anchor`` and ``mse`` (of the score,
        times the squared noise), ``shrinkage``, and ``gain``, the level's contribution to the
        held-out bound in nats.

    Raises:
        InputError: If there are no fields, or the checkpoint is of another run.
    """
    if len(fields) == 0 or len(validation) == 0:
        raise InputError(
            f"{len(fields)} fields to train on and {len(validation)} held out; give one of each"
        )
    training = training.filled(steps=2000, batch=16, settings={})
    batch = training.batch
    assert batch is not None
    mine, levels = share_of(batch), len(prior.log_clock)
    spacing = float(prior.log_clock[1] - prior.log_clock[0])
    points = fields.transpose(-1, -2).contiguous()

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        place = float(prior.log_clock[level_of(step, levels, seed)])
        place += spacing * (float(torch.rand((), generator=generator)) - 0.5)
        clock = min(max(math.exp(place), prior.least), MOST)
        rows = torch.randint(len(points), (batch,), generator=generator)
        start = points[rows.to(points.device)]
        with torch.no_grad():
            x = prior.walk.draw(start, clock, generator)[mine]
            error = prior.walk.score(start[mine], x, clock) - prior.anchor_score(x, clock)
        return _relative(prior, error - prior.correction(x, clock), clock).mean()

    prior.shrinkage.fill_(1.0)
    with torch.no_grad():
        cases = _held_out(prior, validation.transpose(-1, -2), seed)

    def validate() -> float:
        each = [
            _relative(prior, case.error - prior.correction(case.points, case.clock), case.clock)
            .mean()
            .item()
            / max(_relative(prior, case.error, case.clock).mean().item(), 1e-30)
            for case in cases
        ]
        return sum(each) / len(each)

    history = fit_loop(
        prior,
        step_fn,
        training,
        validate=validate,
        seed=seed,
        description="diffusion prior",
        identity={"batch": batch, "data": digest(fields.float(), validation.float())},
    )
    with torch.no_grad():
        return history + _shrink(prior, cases, spacing)


def _relative(prior: RiemannianPrior, error: Tensor, clock: float) -> Tensor:
    """Return squared errors (batch,) of scores in units of the output's, the mean of nodes."""
    units = prior.output_std(clock).square()[:, None]
    squares = torch.stack([own.square().sum(-1) for own in prior.walk.split(error)])
    each = (squares / units * prior.valid).sum(-1).sum(0)
    return each / (prior.valid.sum() * prior.manifold.dim)


def _held_out(prior: RiemannianPrior, points: Tensor, seed: int) -> list[_Case]:
    """Make the held-out case of each level, with other records at each, evenly spaced."""
    generator = torch.Generator().manual_seed(seed + 1)
    levels = len(prior.log_clock)
    count = min(math.ceil(_VALUES_A_LEVEL / points[0].numel()), len(points))
    cases = []
    for level, place in enumerate(prior.log_clock.tolist()):
        clock = min(max(math.exp(place), prior.least), MOST)
        rows = ((torch.arange(count) + level / levels) * (len(points) / count)).long()
        start = points[rows.clamp(max=len(points) - 1).to(points.device)]
        x = prior.walk.draw(start, clock, generator)
        error = prior.walk.score(start, x, clock) - prior.anchor_score(x, clock)
        cases.append(_Case(clock, x, error * prior.valid[:, None]))
    return cases


def _shrink(prior: RiemannianPrior, cases: list[_Case], spacing: float) -> list[dict[str, float]]:
    """Set the shrinkage of every level, and return the curve over the levels."""
    curve, factors = [], torch.ones_like(prior.shrinkage)
    for level, (clock, points, error) in enumerate(cases):
        change = prior.correction(points, clock)
        power, factor = float(change.square().sum()), 1.0
        if power > 0.0:
            factor = min(max(float((error * change).sum()) / power, 0.0), 1.0)
            factor = factor if is_surely_better(error, factor * change) else 0.0
        factors[level] = factor
        before = clock * float(error.square().sum()) / len(points)
        after = clock * float((error - factor * change).square().sum()) / len(points)
        nodes = float(prior.valid.sum()) * prior.manifold.dim
        width = spacing * (0.5 if level in (0, len(cases) - 1) else 1.0)
        curve.append(
            {
                "level": float(level),
                "log_snr": -math.log(clock),
                "noise_std": math.sqrt(clock),
                "mse_anchor": before / nodes,
                "mse": after / nodes,
                "shrinkage": factor,
                "gain": 0.5 * width * (before - after),
            }
        )
    prior.shrinkage.copy_(factors)
    return curve
