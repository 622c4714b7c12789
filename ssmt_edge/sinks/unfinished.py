"""Names of files that are not complete yet, and what killed processes left under such names."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ssmt_edge.files import temporary_sibling


def unfinished(path: Path) -> Path:
    """A free name for a file until it is complete. The numbers of processes repeat, above all in containers: what a
    killed one left under this process's number is not overwritten."""
    first = name = temporary_sibling(path)
    count = 1
    while name.exists():
        count += 1
        name = first.with_name(first.name.replace(f".{os.getpid()}.part", f".{os.getpid()}-{count}.part"))
    return name


def leftovers(path: Path) -> list[Path]:
    """What sinks of killed processes left of a file, or of the masks in a folder; sorted, empty for none.

    To be called before the run's own sinks are opened: files under this process's number then are an earlier one's.
    """
    folder, stem, suffix = (path, r"mask_\d{6,}", r"\.png") if path.is_dir() else _pattern(path)
    name = re.compile(rf"\.{stem}\.(\d+)(-\d+)?\.part{suffix}")
    found = []
    with suppress(OSError):  # a folder that is missing or cannot be read holds nothing to tell of
        for file in folder.iterdir():
            match = name.fullmatch(file.name)
            if match and not _runs(int(match[1])):
                found.append(file)
    return sorted(found)


def _pattern(path: Path) -> tuple[Path, str, str]:
    return path.parent, re.escape(path.stem), re.escape(path.suffix)


def _runs(pid: int) -> bool:
    """Whether another process has this number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
