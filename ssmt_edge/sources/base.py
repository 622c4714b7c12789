"""What all sources have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from ssmt_edge.sources import Frame, without_credentials


class BaseSource:
    """A source with nothing declared; a subclass sets what it knows and yields frames."""

    live = False
    frame_count: int | None = None
    fps: float | None = None
    path: Path | None = None
    on_state: Callable[[str], None] | None = None
    """called by a live source with `lost` and `running`, in the iterating thread"""
    waiting = ""
    """set by a live source that gets something else than frames: what that is"""

    def __init__(self, name: str) -> None:
        """Args: name: file, folder or URI, for messages; user and password in it are left out."""
        self.name = without_credentials(name)
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError

    def interrupt(self) -> None:
        """Ends an iteration that waits for a frame; called from another thread."""
        if self.live:
            self.close()

    def close(self) -> None:
        pass

    def __enter__(self) -> BaseSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
