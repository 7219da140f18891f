"""Packages of a Debian-like distribution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apsgeo.datasets.fetch import Source, extract_members, run_tool, verify
from apsgeo.errors import DatasetError

__all__ = ["DebianPackage"]

_HINT = (
    "use a Debian-like system that is online, with up-to-date package lists (apt-get update); "
    "nothing is installed"
)


@dataclass(frozen=True)
class DebianPackage(Source):
    """A package in the distribution that apt is set up to use.

    A distribution serves one version at a time, so the files in it are verified, not the package.

    Attributes:
        package: Name of the package.
        version: Version that the checksums were taken from; others may hold the same files.
        sha256: Checksums of the members, in hexadecimal.
    """

    package: str
    version: str
    sha256: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.package} {self.version}"

    @property
    def checksums(self) -> Mapping[str, str]:
        """The members'."""
        return self.sha256

    def take(self, members: Sequence[str], folder: Path) -> list[Path]:
        """Fetch the package, take the named members out of it, and verify each.

        Only the package's name decides what is fetched: the distribution's current version.
        """
        run_tool(["apt-get", "download", self.package], folder, f"fetching {self.package}", _HINT)
        packages = list(folder.glob("*.deb"))
        if len(packages) != 1:
            raise DatasetError(f"apt-get left {len(packages)} packages, expected 1; {_HINT}")
        archive = folder / "data.tar"
        with archive.open("wb") as file:
            command = ["dpkg-deb", "--fsys-tarfile", packages[0].name]
            run_tool(command, folder, f"unpacking {self.package}", _HINT, output=file)
        files = extract_members(archive, members, folder / "members")
        for member, path in zip(members, files, strict=True):
            verify(path, self.sha256[member], f"{member} in {packages[0].name}")
        return files
