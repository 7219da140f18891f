"""What a data set is made from and how; its result is made once and kept in the cache."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import xarray as xr

from apsgeo.datasets.fetch import Source
from apsgeo.errors import DatasetError
from apsgeo.io import write_netcdf

__all__ = ["Recipe", "cache_dir"]


@dataclass(frozen=True)
class Recipe:
    """How a data set's file is built.

    Attributes:
        name: Name that users know it by, such as ``"ncep-air"``.
        variable: The main field in the built file.
        source: The package that its raw files come from.
        members: Names of the raw files in the package.
        build: Function that makes the data set out of the raw files, given in the order of
            ``members``.
        revision: Number that is raised when ``build`` makes something else than before, so that old
            caches are not used.
        folder: Folder of its card, if it shares one with others; by default the folder named like
            it.
    """

    name: str
    variable: str
    source: Source
    members: tuple[str, ...]
    build: Callable[[list[Path]], xr.Dataset]
    revision: int = 1
    folder: str = ""

    @property
    def card(self) -> Path:
        """The card: what it is, from where, under which licence, and what to know."""
        return Path(__file__).parent / (self.folder or self.name.replace("-", "_")) / "README.md"

    @property
    def title(self) -> str:
        """What it is, in one line: the first row of the card's table."""
        for line in self.card.read_text(encoding="utf-8").splitlines():
            if line.startswith("| what |"):
                return line.removeprefix("| what |").strip(" |")
        return ""

    def path(self, report: Callable[[str], None] = lambda line: None) -> Path:
        """Return the built file, fetching and building it if it is not in the cache.

        Args:
            report: Function that is told, in a line each, what is done.

        Raises:
            DatasetError: If it cannot be fetched, verified, unpacked or kept.
        """
        file = cache_dir() / f"{self.name}.r{self.revision}.nc"
        if not file.is_file():
            try:
                self._make(file, report)
            except OSError as error:
                raise DatasetError(
                    f"{self.name} cannot be kept in {file.parent}: {error}; "
                    "set APSGEO_CACHE to a folder that can be written"
                ) from error
        return file

    def _make(self, file: Path, report: Callable[[str], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="apsgeo-") as folder:
            report(f"{self.name}: fetching {self.source}")
            raw = self.source.take(self.members, Path(folder))
            report(f"{self.name}: building {file.name}")
            with self.build(raw) as dataset:
                dataset.attrs["history"] = (
                    f"{self.name} revision {self.revision}, built by apsgeo from {self.source}: "
                    f"{self._provenance()}"
                )
                # Another process may have built it meanwhile: the same file.
                write_netcdf(dataset, file, overwrite=True)

    def _provenance(self) -> str:
        some = list(self.members[:8])
        more = len(self.members) - len(some)
        files = ", ".join(some) + (f" and {more} more" if more else "")
        sums = ", ".join(f"{what} {sha256}" for what, sha256 in self.source.checksums.items())
        return f"{files} (sha256: {sums})"


def cache_dir() -> Path:
    """Return the folder of built data sets: ``$APSGEO_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("APSGEO_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("apsgeo")
