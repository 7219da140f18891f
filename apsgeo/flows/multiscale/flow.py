"""A flow that draws the coarsest values first, and then each level's details given the coarser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.flows.context import SiteContext, feature_count, measured_features
from apsgeo.flows.coupling import parameters_last
from apsgeo.flows.elementwise import Elementwise
from apsgeo.flows.flow import Conditioning, Flow, log_share
from apsgeo.flows.multiscale.levels import RANGE, Coarsest, DetailMap, sizes
from apsgeo.flows.multiscale.split import Split
from apsgeo.flows.roughness import Roughness
from apsgeo.flows.start import Known, Start
from apsgeo.gaussian.draws import Base
from apsgeo.nn.layers import zero

__all__ = ["GroupContext", "MultiscaleFlow"]


class GroupContext(nn.Module):
    """A U-Net on groups of nodes, whose channels are the features of all nodes of a group.

    It costs as much as a U-Net on all nodes of half its width, and sees twice as far.

    Args:
        domain: Domain of the features.
        split: Its split into groups.
        in_channels: Number of features of the measurement.
        out_channels: Number of features of the context.
        sites: Features (feature, node) from `apsgeo.flows.context.site_features`.
        embedding: Number of learned features of each group.
        width: Width of the U-Net.
        depth: Depth of the U-Net.
    """

    sites: Tensor

    def __init__(
        self,
        domain: Domain,
        split: Split,
        in_channels: int,
        out_channels: int,
        sites: Tensor,
        *,
        embedding: int,
        width: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.split = split
        self.register_buffer("sites", sites)
        self.network = SiteContext(
            domain.coarse(),
            split.size * (in_channels + len(sites)),
            out_channels,
            torch.empty(0, domain.coarse().num_nodes),
            embedding=embedding,
            width=width,
            depth=depth,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, in_channels, node) to (batch, out_channels, group)."""
        known = self.sites.expand(len(features), -1, -1)
        context: Tensor = self.network(self.split.stack(torch.cat([features, known], 1)))
        return context


@dataclass(frozen=True)
class _ScaleConditioning(Conditioning):
    """The part of a batch of measurements that the maps of all levels see.

    Attributes:
        std: Standard deviation (batch, channel, node) of the base.
        scale: Standard deviation (batch, channel, node) of the normals, in the units of the data.
        zero: Mean (batch, channel, node) of the normals, in the units of the data.
        context: Context (batch, feature, group), of the finest groups.
    """

    std: Tensor
    scale: Tensor
    zero: Tensor
    context: Tensor
    free: ClassVar[tuple[str, ...]] = ("mean", "context")


class MultiscaleFlow(Flow):
    r"""A flow x = mean + T(d; y), which maps the details of deviations d from coarse to fine.

    The deviations, in the units of the data, are split into means over groups of nodes and details
    (`Split`), the means again, and so on. The coarsest values are mapped first. Then the details of
    each level are, with parameters from a network that sees the context of the measurement and the
    coarser field that is already there, in a few steps that see those before. At last, a map of
    each node's value follows. The split is orthonormal, so that the log-determinant is that of the
    maps; a density takes as long as a draw (Yu et al. 2020, *Wavelet Flow*, arXiv 2010.13821; Dai &
    Seljak 2023, *Multiscale Flow*, arXiv 2306.04689).

    Args:
        domain: Domain of the signals, which can be coarsened.
        base: Method whose Gaussian draws the flow starts from.
        channels: Number of channels of the signals.
        context: Network from features of the measurement to `features` of the finest groups.
        features: Number of features of the context.
        width: Width of the network of a level.
        steps: Number of steps of a level.
        elementwise: Family of maps of single numbers.
        nodewise: Family of the last map, of each node; none by default.
        roughness: Roughness of the base's mean that the context network sees; none by default.
        known: Fields that the networks see beside the measurement, if any.
    """

    unit: Tensor

    def __init__(
        self,
        domain: Domain,
        base: Base,
        channels: int,
        context: GroupContext,
        features: int,
        *,
        width: int,
        steps: int,
        elementwise: Elementwise,
        nodewise: Elementwise | None = None,
        roughness: Roughness | None = None,
        known: Known | None = None,
    ) -> None:
        super().__init__(base, known)
        self.context, self.roughness, self.nodewise = context, roughness, nodewise
        self.register_buffer("unit", _unit(channels, known), persistent=False)
        domains = [domain]
        while domains[-1].can_coarsen:
            domains.append(domains[-1].coarse())
        splits = [context.split, *map(Split, domains[1:-1])]
        nodes = domains[-1].num_nodes
        self.coarsest = Coarsest(
            channels * nodes, nodes, features, width=2 * width, elementwise=elementwise
        )
        self.maps = nn.ModuleList(
            DetailMap(
                each,
                split,
                channels,
                features,
                below=0 if split is splits[-1] else width,
                width=width,
                steps=steps,
                elementwise=elementwise,
            )
            for each, split in zip(domains[:-1], splits, strict=True)
        )
        if nodewise is not None:
            count = context.split.size * nodewise.count * channels
            self.head = zero(domains[1].conv(features, count, 1))

    @property
    def levels(self) -> list[DetailMap]:
        """The maps of details, finest first."""
        return [each for each in self.maps if isinstance(each, DetailMap)]

    @staticmethod
    def inputs(
        channels: int, known: Known | None = None, roughness: Roughness | None = None
    ) -> int:
        """Return the number of features that `condition` gives to the context network."""
        return feature_count(channels, known, roughness)

    def condition(self, start: Start) -> _ScaleConditioning:
        """Evaluate the context network once for each measurement; see `Flow.condition`."""
        measurement, mean, std = start.measurement, start.mean, start.std()
        features = measured_features(start, self.covariates(measurement), self.roughness)
        scale, zero = torch.ones_like(mean), torch.zeros_like(mean)
        if self.known is not None:
            normals = self.known.normals
            season = measurement.season_of(normals.seasons)
            scale, zero = normals.std[season].to(mean), normals.mean[season].to(mean)
        share = log_share(measurement).to(mean)
        return _ScaleConditioning(mean, share, std, scale, zero, self.context(features))

    def _known(self, given: _ScaleConditioning) -> list[_Level]:
        """Return what each level knows of the base and the context, finest first."""
        variance = (given.std * given.scale).square()
        field, context = given.zero + given.scale * given.mean, given.context
        found = []
        for level in self.levels:
            variance, details = level.split.variances(variance)
            field, _ = level.split(field)
            found.append(_Level(field, variance.sqrt(), details.sqrt(), context))
            if level.pool is not None:
                context = level.pool(context)
        return found

    def _seen(self, means: Tensor, level: _Level) -> Tensor:
        """Show a coarser field (member, batch, channel, group) to the network of a level."""
        absolute = (means + level.field) / self.unit
        return torch.cat([torch.asinh(means / level.std), sizes(absolute)], -2)

    def _push(self, deviation: Tensor, conditioning: _ScaleConditioning) -> tuple[Tensor, Tensor]:
        known, details = self._known(conditioning), []
        means, top, hidden = deviation * conditioning.scale, known[-1], None
        for level in self.levels:
            means, detail = level.split(means)
            details.append(detail)
        values, total = self.coarsest(means / top.std, top.context)
        means = values * top.std
        for level, given, detail in reversed(list(zip(self.levels, known, details, strict=True))):
            hidden = level.trunk(self._seen(means, given), given.context, hidden)
            moved, log_det = level(detail, hidden, given.details, self.unit[..., None])
            means, total = level.split.merge(means, moved), total + log_det
        r = means / (conditioning.scale * conditioning.std)
        if self.nodewise is not None:
            r, log_slope = self.nodewise.forward(r, self._nodewise(conditioning))
            total = total + log_slope.flatten(2).sum(2)
        return conditioning.mean + conditioning.std * r, total

    def _pull(self, fields: Tensor, conditioning: _ScaleConditioning) -> tuple[Tensor, Tensor]:
        known = self._known(conditioning)
        r = (fields - conditioning.mean) / conditioning.std
        total = fields.new_zeros(fields.shape[:2])
        if self.nodewise is not None:
            r, log_slope = self.nodewise.inverse(r, self._nodewise(conditioning))
            total = log_slope.flatten(2).sum(2)
        means, top, hidden = r * conditioning.std * conditioning.scale, known[-1], None
        found = []
        for level in self.levels:
            means, detail = level.split(means)
            found.append((means, detail))
        values, log_det = self.coarsest.inverse(means / top.std, top.context)
        means, total = values * top.std, total + log_det
        for level, given, (coarse, detail) in reversed(
            list(zip(self.levels, known, found, strict=True))
        ):
            hidden = level.trunk(self._seen(coarse, given), given.context, hidden)
            moved, log_det = level.inverse(detail, hidden, given.details, self.unit[..., None])
            means, total = level.split.merge(means, moved), total + log_det
        return means / conditioning.scale, total

    def _nodewise(self, conditioning: _ScaleConditioning) -> Tensor:
        assert self.nodewise is not None
        raw = RANGE * self.context.split.unstack(self.head(conditioning.context))
        return parameters_last(raw, self.nodewise.count)


@dataclass(frozen=True)
class _Level:
    """What is known of a level before any draw.

    Attributes:
        field: Mean (batch, channel, group) of the base, in the units of the data.
        std: Standard deviation (batch, channel, group) of the means, were values independent.
        details: Standard deviation (batch, channel, detail, group) of the details, likewise.
        context: Context (batch, feature, group).
    """

    field: Tensor
    std: Tensor
    details: Tensor
    context: Tensor


def _unit(channels: int, known: Known | None) -> Tensor:
    """Return the root mean square (channel, 1) of the standard deviations that normals know."""
    if known is None:
        return torch.ones(channels, 1)
    return known.normals.std[..., known.normals.valid].square().mean((0, 2)).sqrt()[:, None]
