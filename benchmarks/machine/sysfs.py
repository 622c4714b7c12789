"""What the kernel tells in small text files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")


def read(path: Path) -> str | None:
    """The text of a file, stripped; None where it is absent, empty or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def number(path: Path) -> float | None:
    """The number that a file holds; None where it holds none."""
    return to_number(read(path))


def to_number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def hwmons(root: Path) -> list[tuple[str, Path]]:
    """(driver's name, folder) of every hardware monitor, in the order of their numbers."""
    folders = sorted((root / "sys/class/hwmon").glob("hwmon*"), key=lambda folder: (len(folder.name), folder.name))
    return [(read(folder / "name") or "", folder) for folder in folders]
