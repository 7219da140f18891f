"""Ways to damage a file, a Zarr store or a model folder."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["DAMAGE", "damaged"]

Random = np.random.Generator
Change = Callable[[bytes, Random], bytes]

_WORDS = (
    b"nan", b"-1e308", b"1e999", b"9" * 40, b"", b"\x00", b'"', b",,,,", b"2000-13-45",
    b"\xff\xfe",
    b"-", b"None", b"{", b"[" * 2000, b"0x10", b"%s%n", b"../../../../tmp/out", b"\n\n",
    b"1" * 5000,
)  # fmt: skip
_HUGE = (2**31 - 1, 2**32 - 1, 2**63 - 1, 2**40, 0, 1)


def truncated(data: bytes, random: Random) -> bytes:
    """Cut a file off anywhere."""
    return data[: int(random.integers(0, max(1, len(data))))]


def flipped(data: bytes, random: Random) -> bytes:
    """Change a few bytes."""
    out = np.frombuffer(data, np.uint8).copy()
    if len(out):
        at = random.integers(0, len(out), int(random.integers(1, 16)))
        out[at] = random.integers(0, 256, len(at))
    return out.tobytes()


def header_flipped(data: bytes, random: Random) -> bytes:
    """Change a few of the first bytes, where formats say what follows."""
    return flipped(data[:512], random) + data[512:]


def zeroed(data: bytes, random: Random) -> bytes:
    """Put zeros in place of a part, as a download does that lost a block."""
    start = int(random.integers(0, max(1, len(data))))
    size = int(random.integers(1, 4096))
    return data[:start] + b"\x00" * len(data[start : start + size]) + data[start + size :]


def repeated(data: bytes, random: Random) -> bytes:
    """Write a part twice."""
    start, end = sorted(random.integers(0, max(1, len(data)), 2).tolist())
    return data[:end] + data[start:]


def huge_number(data: bytes, random: Random) -> bytes:
    """Write a huge number of four or eight bytes somewhere, such as into a length."""
    number = int(random.choice(np.array(_HUGE, dtype=object)))
    width = int(random.choice([4, 8]))
    order = "little" if random.random() < 0.5 else "big"
    value = (number % 2 ** (8 * width)).to_bytes(width, order)
    start = int(random.integers(0, max(1, len(data))))
    return data[:start] + value + data[start + width :]


def worded(data: bytes, random: Random) -> bytes:
    """Put an odd word in place of a word or a number of a text."""
    words = data.replace(b"\n", b"\n ").split(b" ")
    separator = b"," if data.count(b",") > len(words) else b" "
    parts = data.split(separator)
    parts[int(random.integers(0, len(parts)))] = _WORDS[int(random.integers(0, len(_WORDS)))]
    return separator.join(parts)


def shuffled_lines(data: bytes, random: Random) -> bytes:
    """Put the lines of a text in another order."""
    lines = data.split(b"\n")
    return b"\n".join(lines[i] for i in random.permutation(len(lines)))


def other_format(data: bytes, random: Random) -> bytes:
    """Write another kind of file: an archive with paths that lead out of it, a page, noise."""
    kind = int(random.integers(0, 5))
    buffer = io.BytesIO()
    if kind == 0:
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("../../outside.txt", "out")
            file.writestr("/tmp/outside.txt", "out")
    elif kind == 1:
        with tarfile.open(fileobj=buffer, mode="w:gz") as file:
            member = tarfile.TarInfo("../../outside.txt")
            member.size = 3
            file.addfile(member, io.BytesIO(b"out"))
    elif kind == 2:
        return b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    elif kind == 3:
        return random.bytes(int(random.integers(0, 4096)))
    else:
        return data[:8] + random.bytes(2048)
    return buffer.getvalue()


DAMAGE: dict[str, Change] = {
    each.__name__: each
    for each in (
        truncated, flipped, header_flipped, zeroed, repeated, huge_number, worded, shuffled_lines,
        other_format,
    )
}  # fmt: skip


def _entry_nested(folder: Path, random: Random) -> None:
    file = _some_file(folder, random)
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        return
    odd: list[object] = [None, -1, 10**12, "x", [], {}, True, [10**9, 10**9], "../..", 1e308]
    here, place = content, None
    while isinstance(here, dict | list) and len(here):
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        parent, place = here, keys[int(random.integers(0, len(keys)))]
        here = here[place]
        if random.random() < 0.3:
            break
    if place is not None:
        parent[place] = odd[int(random.integers(0, len(odd)))]
        file.write_text(json.dumps(content))


def _linked(folder: Path, random: Random) -> None:
    file = _some_file(folder, random)
    file.unlink()
    file.symlink_to(random.choice(["/etc/passwd", "/dev/zero", "nowhere", "..", file.name]))


def _extra(folder: Path, random: Random) -> None:
    (folder / str(random.choice(["x.pkl", "weights.bin", "a.py", ".hidden"]))).write_bytes(b"x")


def _missing(folder: Path, random: Random) -> None:
    _some_file(folder, random).unlink()


FOLDER_DAMAGE = {
    "entry": _entry_nested,
    "link": _linked,
    "extra": _extra,
    "missing": _missing,
}


def _some_file(folder: Path, random: Random) -> Path:
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    return files[int(random.integers(0, len(files)))]


def damaged(path: Path, random: Random) -> str:
    """Damage a file, or a file of a folder, in place, and return how."""
    if path.is_dir() and random.random() < 0.5:
        name = str(random.choice(list(FOLDER_DAMAGE)))
        FOLDER_DAMAGE[name](path, random)
        return name
    file = _some_file(path, random) if path.is_dir() else path
    name = str(random.choice(list(DAMAGE)))
    data = file.read_bytes()
    file.write_bytes(DAMAGE[name](data, random))
    os.utime(file)
    return name
