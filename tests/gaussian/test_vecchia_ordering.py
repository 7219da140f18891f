"""The order in which a Vecchia approximation draws nodes: each once, after those it is given."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from apsgeo.domains import LatLonDomain
from apsgeo.gaussian.vecchia import Ordering
from tests.cases import numpy_seeded

Array = NDArray[np.float64]


def on_sphere(nodes: int) -> Array:
    points = numpy_seeded(nodes).standard_normal((nodes, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def globe() -> Array:
    """A grid of 37 x 72 nodes, 72 of which coincide at either pole."""
    domain = LatLonDomain(np.linspace(90, -90, 37), np.arange(0, 360, 5.0))
    return domain.positions.double().numpy()


POSITIONS = {
    "one node": np.zeros((1, 2)),
    "two nodes": np.array([[0.0, 0.0], [1.0, 0.0]]),
    "many in one place": np.ones((500, 3)),
    "a line": np.stack([np.arange(700.0), np.zeros(700), np.zeros(700)], 1),
    "a plane": numpy_seeded(1).uniform(0, 1, (3000, 2)),
    "a globe": globe(),
    "a sphere": on_sphere(4000),
    "a few on a sphere": on_sphere(130),
}


@pytest.fixture(params=POSITIONS)
def positions(request: pytest.FixtureRequest) -> Array:
    return POSITIONS[request.param]


def steps_of(ordering: Ordering) -> list[tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]]:
    """Return for each step the nodes of its blocks, and those before each block."""
    steps = []
    for blocks in ordering.parts:
        rows = list(zip(blocks.nodes.numpy(), blocks.real.numpy(), strict=True))
        nodes = [row[real] for row, real in rows]
        before = [
            row[known]
            for row, known in zip(blocks.before.numpy(), blocks.known.numpy(), strict=True)
        ]
        assert np.concatenate([np.arange(len(blocks))[s] for s in blocks.steps]).tolist() == list(
            range(len(blocks))
        )
        steps += [(nodes[step], before[step]) for step in blocks.steps]
    return steps


@pytest.mark.parametrize(("block", "before"), [(24, 24), (1, 3), (7, 0), (10_000, 24)])
def test_every_node_is_drawn_once_and_after_those_it_is_given(
    positions: Array, block: int, before: int
) -> None:
    drawn = np.zeros(len(positions), dtype=int)
    for nodes, given in steps_of(Ordering.of(positions, block=block, before=before)):
        for here, earlier in zip(nodes, given, strict=True):
            assert 0 < len(here) <= np.ceil(2**0.5 * block)
            assert drawn[earlier].all()
            assert len(np.unique(earlier)) == len(earlier) == min(before, drawn.sum())
        np.add.at(drawn, np.concatenate(nodes), 1)
    assert (drawn == 1).all()


def test_a_block_is_given_the_nearest_nodes_to_any_of_its_own(positions: Array) -> None:
    drawn = np.zeros(len(positions), dtype=bool)
    for nodes, given in steps_of(Ordering.of(positions)):
        for here, earlier in zip(nodes, given, strict=True):
            away = cdist(positions[here], positions).min(0)
            farthest = away[earlier].max(initial=0.0)
            left = drawn.copy()
            left[earlier] = False
            assert (away[left] >= farthest - 1e-9).all() or len(earlier) == 0
        drawn[np.concatenate(nodes)] = True


def test_nodes_that_coincide_are_drawn_one_after_the_other() -> None:
    """Drawn at a time, in two blocks, they would lose their correlation of one."""
    positions = globe()
    for nodes, _ in steps_of(Ordering.of(positions)):
        place = [np.unique(positions[here].round(9), axis=0) for here in nodes]
        every = np.concatenate(place)
        assert len(np.unique(every, axis=0)) == len(every)


def test_the_number_of_steps_grows_as_the_log_of_the_number_of_nodes() -> None:
    counts = [
        sum(len(part.steps) for part in Ordering.of(on_sphere(nodes)).parts)
        for nodes in (1000, 4000, 16_000, 64_000)
    ]
    assert max(np.diff(counts)) <= 9 + 1  # a level of at most nine colours for four times as many
    assert counts[-1] < 60


def test_values_of_channels_are_drawn_together() -> None:
    ordering = Ordering.of(on_sphere(300))
    both = ordering.of_values(2, 300)
    for one, two in zip(ordering.parts, both.parts, strict=True):
        for name in ("nodes", "before"):
            first, second = getattr(two, name).chunk(2, 1)
            assert (first == getattr(one, name)).all()
            assert (second == first + 300).all()
        assert (two.real == one.real.repeat(1, 2)).all()
        assert (two.known == one.known.repeat(1, 2)).all()
        assert two.steps == one.steps
