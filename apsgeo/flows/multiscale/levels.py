"""The maps of a multiscale flow: of the coarsest values, and of each level's details."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from apsgeo.domains.base import Domain
from apsgeo.flows.elementwise import Elementwise
from apsgeo.flows.multiscale.split import Split
from apsgeo.nn.layers import zero

__all__ = ["RANGE", "Coarsest", "DetailMap", "sizes"]

_GAINS = (1.0, 8.0, 64.0)
"""Factors of a value before its tanh: the largest tells a value apart from zero by a hundredth."""
RANGE = 3.0
"""Factor of raw parameters, which start at zero: else flat places would take Adam long."""
_COARSEST_STEPS = 4
_REDUCED = 8  # features that the context is reduced to before the dense networks


def sizes(values: Tensor) -> Tensor:
    """Show values (..., channel, node) to a network: squashed at several gains, as channels."""
    return torch.cat([torch.tanh(gain * values) for gain in _GAINS], -2)


def _raw(head: Tensor, count: int, planes: int) -> Tensor:
    """Turn (..., count * channel * plane, node) into (..., channel, plane, node, count)."""
    return RANGE * head.unflatten(-2, (count, -1, planes)).movedim(-4, -1)


class _Step(nn.Module):
    """The parameters of the maps of some details of a level, given those that came before.

    Args:
        groups: Domain of the groups.
        channels: Number of channels of the fields.
        seen: Number of details of a group, all of which are seen, zero where they come later.
        planes: Which of them are mapped.
        width: Width of the network.
        count: Number of parameters of a map.
    """

    def __init__(
        self, groups: Domain, channels: int, seen: int, planes: slice, width: int, count: int
    ) -> None:
        super().__init__()
        self.planes, self.count = planes, count
        self.size = planes.stop - planes.start
        self.see = groups.conv(2 * channels * seen, width, 3)
        self.hidden = groups.conv(width, width, 1)
        self.head = zero(groups.conv(width, count * channels * self.size, 1))

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        """Map (batch, width, group) and what is seen of details to raw parameters."""
        found = self.hidden(silu(hidden + self.see(seen)))
        return _raw(self.head(silu(found)), self.count, self.size)


class DetailMap(nn.Module):
    """An invertible map of the details of one level, given the context and the coarser field.

    The details of a group come in steps, each first in the groups of one colour, then in those of
    the other. All that came before is seen, beside the coarser field and what the network of the
    next coarser level has found.

    Args:
        domain: Domain that is split.
        split: Its split.
        channels: Number of channels of the fields.
        context: Number of features of the context at the groups.
        below: Width of the network of the next coarser level; 0 where there is none.
        width: Width of the network.
        steps: Number of steps, at most.
        elementwise: Family of maps of single numbers.
    """

    turns: Tensor

    def __init__(
        self,
        domain: Domain,
        split: Split,
        channels: int,
        context: int,
        *,
        below: int,
        width: int,
        steps: int,
        elementwise: Elementwise,
    ) -> None:
        super().__init__()
        groups = domain.coarse()
        self.elementwise, self.split = elementwise, split
        self.pool = groups.pool() if below else None
        self.enter = groups.conv((1 + len(_GAINS)) * channels, width, 3)
        self.carry = groups.coarse().conv(below, width, 1) if below else None
        self.unpool = groups.unpool() if below else None
        self.given = groups.conv(context, 2 * width, 1)
        self.mix = groups.conv(width, width, 3)
        parts = torch.arange(split.details).tensor_split(min(steps, split.details))
        planes = [slice(int(part[0]), int(part[-1]) + 1) for part in parts for _ in range(2)]
        colours = torch.stack([groups.colouring, ~groups.colouring])
        turns = torch.zeros(len(planes), split.details, groups.num_nodes, dtype=torch.bool)
        for index, each in enumerate(planes):
            turns[index, each] = colours[index % 2]
        self.register_buffer("turns", turns & split.detailed, persistent=False)
        self.steps = nn.ModuleList(
            _Step(groups, channels, split.details, each, width, elementwise.count)
            for each in planes
        )

    def trunk(self, seen: Tensor, context: Tensor, below: Tensor | None) -> Tensor:
        """Return hidden features (member * batch, width, group) of a level.

        Args:
            seen: What is seen of the coarser field, (member, batch, feature, group).
            context: Context (batch, feature, group).
            below: Hidden features of the next coarser level, if there is one.
        """
        hidden = self.enter(seen.flatten(0, 1))
        if self.carry is not None and self.unpool is not None:
            assert below is not None
            hidden = hidden + self.unpool(self.carry(below))
        gain, shift = self.given(context).chunk(2, 1)
        hidden = hidden.unflatten(0, seen.shape[:2]) * (0.5 * gain).exp() + shift
        hidden = hidden.flatten(0, 1)
        out: Tensor = hidden + self.mix(silu(hidden))
        return out

    def _seen(self, details: Tensor, unit: Tensor) -> Tensor:
        """Show details (member, batch, channel, plane, group) to a network."""
        flat = details.flatten(0, 1).flatten(1, 2)
        of_unit = (details / unit).flatten(0, 1).flatten(1, 2)
        return torch.cat([torch.asinh(flat), torch.tanh(16.0 * of_unit)], 1)

    def _run(
        self, details: Tensor, hidden: Tensor, std: Tensor, unit: Tensor, *, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        apply = self.elementwise.inverse if inverse else self.elementwise.forward
        given, total = details / std, details.new_zeros(details.shape[:2])
        out, known = torch.zeros_like(given), torch.zeros_like(self.turns[0])
        for turn, step in zip(self.turns, self.steps, strict=True):
            assert isinstance(step, _Step)
            seen = self._seen((given if inverse else out) * known, unit / std)
            raw = step(hidden, seen).unflatten(0, details.shape[:2])
            moved, log_slope = apply(given[..., step.planes, :], raw)
            own = turn[step.planes]
            before, here, after = out.tensor_split([step.planes.start, step.planes.stop], -2)
            out = torch.cat([before, torch.where(own, moved, here), after], -2)
            known = known | turn
            total = total + (log_slope * own).flatten(2).sum(2)
        return out * std, total

    def forward(
        self, details: Tensor, hidden: Tensor, std: Tensor, unit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Map details (member, batch, channel, detail, group), given the level's hidden features.

        Args:
            details: Details of the base's deviations.
            hidden: What `trunk` returned.
            std: Standard deviation (batch, channel, detail, group) that they are standardized by.
            unit: Unit (channel, 1, 1) of values that are of order one.

        Returns:
            Details of the fields, and log |det| (member, batch).
        """
        return self._run(details, hidden, std, unit, inverse=False)

    def inverse(
        self, details: Tensor, hidden: Tensor, std: Tensor, unit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Undo `forward`, and return its log |det| too."""
        return self._run(details, hidden, std, unit, inverse=True)


class Coarsest(nn.Module):
    """An invertible map of the coarsest values, a few at a time, each given all before.

    Args:
        values: Number of values, over channels and nodes.
        nodes: Number of nodes of the coarsest domain.
        context: Number of features of the context.
        width: Width of the dense networks.
        elementwise: Family of maps of single numbers.
    """

    turns: Tensor

    def __init__(
        self, values: int, nodes: int, context: int, *, width: int, elementwise: Elementwise
    ) -> None:
        super().__init__()
        self.elementwise = elementwise
        count = min(_COARSEST_STEPS, values)
        turns = torch.arange(values) % count == torch.arange(count)[:, None]
        self.register_buffer("turns", turns, persistent=False)
        self.reduce = nn.Linear(context, _REDUCED)
        self.nets = nn.ModuleList(
            nn.Sequential(
                nn.Linear(values + _REDUCED * nodes, width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
                zero(nn.Linear(width, elementwise.count * values)),
            )
            for _ in range(count)
        )

    def _run(self, values: Tensor, context: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        apply = self.elementwise.inverse if inverse else self.elementwise.forward
        given, total = values.flatten(2), values.new_zeros(values.shape[:2])
        seen = self.reduce(context.mT).flatten(1).expand(len(values), -1, -1)
        out, known = torch.zeros_like(given), torch.zeros_like(self.turns[0])
        for turn, net in zip(self.turns, self.nets, strict=True):
            fields = given if inverse else out
            inputs = torch.cat([torch.asinh(fields) * known, seen], -1)
            raw = net(inputs).unflatten(-1, (self.elementwise.count, -1)).mT
            moved, log_slope = apply(given, raw)
            out, known = torch.where(turn, moved, out), known | turn
            total = total + (log_slope * turn).sum(2)
        return out.reshape(values.shape), total

    def forward(self, values: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map values (member, batch, channel, node) given a context (batch, feature, node)."""
        return self._run(values, context, inverse=False)

    def inverse(self, values: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `forward`, and return its log |det| too."""
        return self._run(values, context, inverse=True)
