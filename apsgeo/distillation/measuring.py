"""Settings of simulated measurements: an operator of a family, a mask, and a noise level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apsgeo.distillation.pairs import Setting
from apsgeo.errors import InputError
from apsgeo.measurement import Family
from apsgeo.measurement.noise import check_noise
from apsgeo.operators import Operator

__all__ = ["Noise", "alike", "checks", "simulate"]


def simulate(family: Family, noise: Noise, generator: torch.Generator, window: int = 0) -> Setting:
    """Draw one setting: a member of a family, a mask, and a noise level.

    Args:
        family: The family.
        noise: Range of the noise.
        generator: Generator of all draws.
        window: Number of neighbours on either side, which are measured at about the same density.
            A quarter of the settings have none of them, and of the others every fifth has those of
            one side.
    """
    member, domain = family.operator.draw(generator), family.domain
    mask = member.simulate(domain, generator)
    level, linear = noise.draw(generator), family.on(member)
    offsets = _offsets(window)
    if window:
        chance = float(torch.rand((), generator=generator))
        none, one_side = chance < 0.25, chance < 0.4
        offsets = [] if none else [o for o in offsets if not one_side or o * (chance - 0.325) > 0]
    masks: tuple[tuple[int, Tensor], ...] = ()
    if offsets:
        seen = mask.double() @ domain.areas.double() if linear.is_identity else domain.areas.sum()
        density = max(float(seen / domain.areas.sum()), 1.0 / domain.num_nodes)
        masks = tuple((o, member.at_density(domain, density, generator)) for o in offsets)
    return Setting(mask, level, linear, masks)


def alike(first: Setting, second: Setting) -> bool:
    """Tell whether two settings are the same way of measuring."""
    return (
        first.operator is second.operator
        and torch.equal(first.mask, second.mask)
        and torch.equal(first.noise_std, second.noise_std)
    )


def _offsets(window: int) -> list[int]:
    return [*range(-window, 0), *range(1, window + 1)]


def checks(
    family: Family, noise: Noise, rounds: int, generator: torch.Generator, window: int = 0
) -> list[Setting]:
    """Draw masks for every typical member, density and noise level, `rounds` times each.

    So many neighbours on either side are measured at the same density.
    """

    def mask(member: Operator, density: float) -> Tensor:
        return member.at_density(family.domain, density, generator)

    return [
        Setting(
            mask(member, density),
            level,
            family.on(member),
            tuple((offset, mask(member, density)) for offset in _offsets(window)),
        )
        for _ in range(rounds)
        for member in family.operator.typical()
        for density in member.held_out_densities
        for level in noise.levels
    ]


@dataclass(frozen=True)
class Noise:
    """A range of noise levels; both ends are equal where the level is known."""

    least: Tensor
    most: Tensor

    @classmethod
    def of(
        cls, noise_std: float | Tensor | tuple[float, float], family: Family, channels: int
    ) -> Noise:
        """Check the user's noise_std, and return its range."""
        ends = noise_std if isinstance(noise_std, tuple) else (noise_std, noise_std)
        tensors = [torch.as_tensor(end, dtype=torch.float32) for end in ends]
        if isinstance(noise_std, tuple) and not (len(ends) == 2 and ends[0] < ends[1]):
            raise InputError(f"noise_std={noise_std}; of a range give (least, most).")
        counts = {family.on(member).num_observations for member in family.operator.typical()}
        (nodes,) = counts if len(counts) == 1 else (1,)
        for end in tensors:
            check_noise(end, (channels, nodes))
        return cls(*(end.expand(*end.shape[:-1], nodes).clone() for end in tensors))

    @property
    def middle(self) -> Tensor:
        """The geometric mean of the ends."""
        return self.least * (self.most / self.least).sqrt()

    @property
    def levels(self) -> tuple[Tensor, ...]:
        """Levels of held-out measurements: the ends and the middle, or the only level."""
        if torch.equal(self.least, self.most):
            return (self.least,)
        return self.least, self.middle, self.most

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw a level log-uniformly."""
        if torch.equal(self.least, self.most):
            return self.least
        place = float(torch.rand((), generator=generator))
        return self.least * (self.most / self.least) ** place
