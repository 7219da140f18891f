"""What a statistic of an ensemble is: its outputs, and an accumulator that sees members once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.labels.layout import Layout
from apsgeo.measurement import Draws, Normals

__all__ = ["Accumulator", "Output", "Site", "Statistic"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Site:
    """What a statistic may know before members are drawn.

    Attributes:
        layout: Layout of the members.
        channels: Number of channels.
        members: Size of the ensemble.
        normals: Mean and spread of the variable.
        log_prior: Function that returns log p (batch,) of anomalies (batch, channel, node), given
            their seasons (batch,); None if the model has none.
        name: Name of the variable in messages.
    """

    layout: Layout
    channels: int
    members: int
    normals: Normals
    log_prior: Any = None
    name: str = "the ensemble"


@dataclass(frozen=True, eq=False)
class Output:
    """One variable that a statistic makes.

    Attributes:
        suffix: What is added to the name of the variable.
        coords: Coordinates of the dims that come before those of the records.
        channels: Whether there is one for each channel.
        nodes: Whether there is one for each node.
        units: Units; None for those of the data.
        attrs: Further attributes. In ``long_name``, {} stands for that of the data.
    """

    suffix: str
    coords: Mapping[str, xr.Variable] = field(default_factory=dict)
    channels: bool = True
    nodes: bool = True
    units: str | None = None
    attrs: Mapping[str, str] = field(default_factory=dict)

    def shape(self, site: Site) -> tuple[int, ...]:
        """Return the shape of one record's values."""
        layout = site.layout
        lead = tuple(each.size for each in self.coords.values())
        channel = (site.channels,) if self.channels and layout.channel is not None else ()
        return (*lead, *channel, *(layout.shape if self.nodes else ()))

    def dims(self, site: Site) -> tuple[str, ...]:
        """Return the names of the dims of one record's values."""
        layout = site.layout
        channel = (layout.channel,) if self.channels and layout.channel is not None else ()
        return (*self.coords, *channel, *(layout.dims if self.nodes else ()))

    def placed(self, values: Array, site: Site) -> Array:
        """Return values (record, *coords, [channel,] [node]) of an accumulator, flat by record."""
        if self.nodes:
            values = site.layout.channel_places(values)
        return values.reshape(len(values), -1)


class Accumulator(Protocol):
    """The state of a statistic for some records."""

    def add(self, fields: Array, draws: Draws) -> None:
        """Take in members.

        Args:
            fields: Members (member, record, channel, node), NaN where there are no values.
            draws: What they are of.
        """
        ...

    def values(self) -> Sequence[Array]:
        """Return the values of each output, (record, *coords, [channel,] [node])."""
        ...


class Statistic(ABC):
    """A statistic over the members of an ensemble."""

    def check(self, site: Site) -> None:  # noqa: B027
        """Check that the statistic can be had of such an ensemble.

        Raises:
            InputError: If it cannot.
        """

    @abstractmethod
    def outputs(self, site: Site) -> Sequence[Output]:
        """Return the variables that it makes."""

    @abstractmethod
    def start(self, site: Site) -> Accumulator:
        """Return the state before the first member."""


def number_axis(name: str, values: Sequence[float], **attrs: str) -> dict[str, xr.Variable]:
    """Return a coordinate of numbers, by its name."""
    return {name: xr.Variable(name, np.asarray(values, dtype=np.float64), attrs)}
