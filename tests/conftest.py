"""What every test may rely on: no network, and a cache of its own. Rounding may be another's."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from tests.jitter import JITTERS, Jitter


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        here = isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        if self.family != socket.AF_UNIX and not here:
            raise OSError(errno.ENETUNREACH, f"tests use no network, not even {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("APSGEO_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _jitter(request: pytest.FixtureRequest) -> Iterator[None]:
    if not JITTERS or request.node.get_closest_marker("same_bits"):
        yield
        return
    with Jitter(), dask.config.set(scheduler="synchronous"):  # a mode is of one thread
        yield
