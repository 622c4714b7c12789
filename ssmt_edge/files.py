"""Files that are whole or absent: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def cache_folder(subject: str) -> Path:
    """Folder for what can be made again, below the user's cache folder; not created."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "ssmt-edge" / subject


def temporary_sibling(path: Path) -> Path:
    """A name in the same folder (so that renaming is atomic) with the same suffix (so that writers know the format)."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; renamed to `path` on success, removed on any exception.

    Missing parent folders are created. OSError passes through: callers name the file's purpose.
    """
    if path.is_dir():  # told before the work, not by the renaming after it
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected the name of a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary_sibling(path)
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing` for a whole folder; an existing folder at `path` is replaced only when the new one is complete.

    A symbolic link stays and its target is replaced. OSError for a file at `path`, and for a folder that the process
    is in: its shell would be left in a deleted one.
    """
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, expected a folder", str(path))
    if Path.cwd().is_relative_to(path):
        raise OSError(errno.EBUSY, "is the current folder or holds it, expected another one", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary_sibling(path)
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(part, ignore_errors=True)  # of a killed process with the same number, as in containers
    part.mkdir()
    try:
        yield part
        if path.exists():
            path.rename(old)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not path.exists():  # the second rename failed: the old folder comes back
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON with a final newline, atomically."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A column for every key that occurs in a row, empty where a row lacks it or has None, atomically."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
