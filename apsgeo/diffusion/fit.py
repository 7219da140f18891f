"""Training of the diffusion prior's denoiser, with a held-out curve over the noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.diffusion.samplers import DPMSolver
from apsgeo.domains.symmetry import Symmetries
from apsgeo.errors import InputError
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.optim.checkpoint import digest
from apsgeo.optim.distributed import share_of
from apsgeo.optim.loop import fit_loop
from apsgeo.optim.training import Training

__all__ = ["is_surely_better", "level_of", "train_diffusion"]

# Held-out values behind one level's error: below a hundred thousand or so, chance would decide
# which weights are kept and how far a level is shrunk.
_VALUES_A_LEVEL = 80_000
# Standard errors by which a network must better a level's held-out denoising to have a say there.
_SURELY = 3.0
# Samples whose power is compared with that of the data: more where they are small.
_LEAST_SAMPLES, _SAMPLED_VALUES = 128, 250_000
_SAMPLER_STEPS = 30
_BLOCKS = 8  # blocks of neighbouring held-out records, which may be alike
_CHUNK = 32  # fields denoised at once


class _Case(NamedTuple):
    """Held-out fields at one level, with their fixed noise and the anchor's answer."""

    x0: Tensor
    x_t: Tensor
    mean: Tensor
    log_snr: Tensor

    def errors(self, prior: DiffusionPrior) -> tuple[Tensor, Tensor]:
        """Return x0 - D_G and D - D_G, each (record, channel, node)."""
        return self.x0 - self.mean, prior.correction(self.x_t, self.mean, self.log_snr)


def train_diffusion(
    prior: DiffusionPrior,
    fields: Tensor,
    validation: Tensor,
    training: Training = Training(),
    *,
    seed: int = 0,
    crossfit: Sequence[tuple[GaussianPrior, Tensor]] | None = None,
    augment: Symmetries | None = None,
    precision: Literal["float32", "bfloat16"] | None = None,
    **settings: Any,
) -> list[dict[str, float]]:
    r"""Train the denoiser of ``prior`` in place, and keep the weights best on held-out fields.

    Each step denoises one batch at one level of the grid (levels are visited in shuffled order,
    so that every level, equally spaced in log-SNR, counts alike) and minimises
    |x0 - D|^2 / (d c_out^2), which is one where the network is zero and the anchor is true. The
    held-out score is the mean over levels of mse(network) / mse(anchor) on fixed noise: one at
    the start, which competes with what training finds.

    After training, the correction of each level is shrunk by the factor in [0, 1] that is best on
    the held-out fields, and to nothing unless it betters their denoising by three standard errors.
    Then samples of the prior are drawn, and the gains are fitted that give them the power of
    ``fields`` in bands of scales (`BandGain`). Log-densities are those of the denoiser alone.

    Args:
        prior: Diffusion prior whose network is trained, on the device of ``fields``.
        fields: Standardized anomalies (record, channel, node).
        validation: Fields (record, channel, node) that neither anchor nor training has seen.
        training: Settings, by default 2000 steps of 16 fields; the device is not used.
        seed: Seed of records, levels and noise; weights are reproducible on one machine.
        crossfit: Pairs (anchor, records). Each anchor was fitted without those records (int64
            indices into ``fields``) and replaces the prior's own anchor on them. An anchor that has
            seen a field denoises it too well for a network to learn from (docs/method.md).
        augment: Symmetries of the domain that the fields have, such as
            ``prior.domain.symmetries.only("left-right")``; a random one moves the fields of each
            step.
        precision: Precision of the network in training; by default "bfloat16" (mixed precision:
            weights and losses stay in single precision) on CUDA, elsewhere "float32".
        **settings: Settings of the training given by name, which go before those of `training`.

    Returns:
        The records of `fit_loop`, then one record per level: ``level``, ``log_snr``,
        ``noise_std`` (sigma / alpha), ``mse_anchor`` and ``mse`` (held out, mean over records and
        nodes, standardized units squared; ``mse`` of the final weights, shrunk), ``shrinkage``,
        and ``gain``, the level's contribution to the held-out anchored log-density in nats.

    Raises:
        InputError: If a shape does not fit, there are no fields, the processes that train together
            do not divide ``batch``, or the checkpoint is of another run.
    """
    for name, given in (("fields", fields), ("validation", validation)):
        if given.ndim != 3 or len(given) == 0 or given.shape[1] != prior.channels:
            raise InputError(
                f"{name} has shape {tuple(given.shape)}; expected (record, "
                f"{prior.channels}, {prior.domain.num_nodes}) with at least one record"
            )
    training = training.filled(steps=2000, batch=16, settings=settings)
    batch = training.batch
    assert batch is not None
    everything = (prior.anchor, torch.arange(len(fields)))
    folds = [everything] if crossfit is None else list(crossfit)
    sizes = torch.tensor([len(rows) for _, rows in folds], dtype=torch.float64)
    mine = share_of(batch)
    place = fields.device.type
    mixed = place == "cuda" if precision is None else precision == "bfloat16"

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        level = level_of(step, prior.levels, seed)
        anchor, rows = folds[int(torch.multinomial(sizes, 1, generator=generator))]
        picked = rows[torch.randint(len(rows), (batch,), generator=generator)]
        x0 = fields[picked.to(fields.device)]
        if augment:
            x0 = x0[..., augment.draw(generator)]
        with torch.no_grad():
            log_snr = prior.log_snr[level].expand(batch)
            x_t, _ = prior.perturb(x0, log_snr, generator)
            x0, x_t, log_snr = x0[mine], x_t[mine], log_snr[mine]
            mean = prior.anchor_mean(x_t, log_snr, anchor)
        with torch.autocast(place, torch.bfloat16, enabled=mixed):
            change = prior.correction(x_t, mean, log_snr)
        error = x0 - mean - change
        return error.pow(2).mean() / float(prior.residual_std[level]) ** 2

    prior.shrinkage.fill_(1.0)
    prior.gain = None
    with torch.no_grad():
        cases = _held_out(prior, validation, seed)

    def validate() -> float:
        return sum(_relative_mse(*case.errors(prior)) for case in cases) / len(cases)

    history = fit_loop(
        prior,
        step_fn,
        training,
        validate=validate,
        seed=seed,
        description="diffusion prior",
        identity={
            "batch": batch,
            "mixed": mixed,
            "augment": list(augment or ()),
            "data": digest(fields, validation),
        },
    )
    with torch.no_grad():
        curve = _shrink(prior, cases)
        _calibrate(prior, fields, seed)
    return history + curve


def level_of(step: int, levels: int, seed: int) -> int:
    """Return the level of a step: each once in every ``levels`` steps, in shuffled order."""
    round_, place = divmod(step, levels)
    generator = torch.Generator().manual_seed(1_000_003 * seed + round_)
    return int(torch.randperm(levels, generator=generator)[place])


def _held_out(prior: DiffusionPrior, validation: Tensor, seed: int) -> list[_Case]:
    """Make the held-out case of each level, with other records at each, evenly spaced."""
    generator = torch.Generator().manual_seed(seed + 1)
    wanted = math.ceil(_VALUES_A_LEVEL / validation[0].numel())
    count = min(wanted, len(validation))
    cases = []
    for level in range(prior.levels):
        place = (torch.arange(count) + level / prior.levels) * (len(validation) / count)
        rows = place.long().clamp(max=len(validation) - 1)
        x0 = validation[rows.to(validation.device)]
        log_snr = prior.log_snr[level].expand(count)
        x_t, _ = prior.perturb(x0, log_snr, generator)
        cases.append(_Case(x0, x_t, prior.anchor_mean(x_t, log_snr), log_snr))
    return cases


def _relative_mse(error: Tensor, change: Tensor) -> float:
    return float((error - change).pow(2).mean() / error.pow(2).mean())


def _shrink(prior: DiffusionPrior, cases: list[_Case]) -> list[dict[str, float]]:
    """Set the shrinkage of every level, and return the curve over the levels.

    It is found by least squares, and is zero where it is not sure that the network helps.
    """
    curve = []
    factors = torch.ones_like(prior.shrinkage)
    for level, case in enumerate(cases):
        error, change = case.errors(prior)
        power = float(change.pow(2).sum())
        factor = 1.0
        if power > 0.0:
            factor = min(max(float((error * change).sum()) / power, 0.0), 1.0)
            factor = factor if is_surely_better(error, factor * change) else 0.0
        factors[level] = factor
        mse_anchor = float(error.pow(2).mean())
        mse = float((error - factor * change).pow(2).mean())
        nats = 0.5 * float(prior.quadrature[level]) * case.x0[0].numel()
        curve.append(
            {
                "level": float(level),
                "log_snr": float(prior.log_snr[level]),
                "noise_std": prior.noise_std[level],
                "mse_anchor": mse_anchor,
                "mse": mse,
                "shrinkage": factor,
                "gain": nats * (mse_anchor - mse) / prior.noise_std[level] ** 2,
            }
        )
    prior.shrinkage.copy_(factors)
    return curve


def _calibrate(prior: DiffusionPrior, fields: Tensor, seed: int) -> None:
    """Fit the gains that samples are multiplied by."""
    gain = prior.with_gain()
    if gain is None:
        return
    wanted = max(_LEAST_SAMPLES, _SAMPLED_VALUES // fields[0].numel())
    samples = DPMSolver(_SAMPLER_STEPS).sample(
        prior,
        math.ceil(wanted / _CHUNK) * _CHUNK,
        at_once=_CHUNK,
        generator=torch.Generator().manual_seed(seed + 2),
        like=fields,
    )
    gain.fit(samples, fields)


def is_surely_better(error: Tensor, change: Tensor) -> bool:
    """Tell whether a change lessens the error by `_SURELY` standard errors.

    The standard errors are those over blocks of neighbouring records, since months or places that
    follow each other are not independent.
    """
    gain = (error.pow(2) - (error - change).pow(2)).flatten(1).mean(1)
    blocks = torch.stack([block.mean() for block in gain.tensor_split(min(_BLOCKS, len(gain)))])
    chance = float(blocks.std()) / math.sqrt(len(blocks)) if len(blocks) > 1 else 0.0
    return float(gain.mean()) > _SURELY * chance
