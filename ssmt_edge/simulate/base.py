"""What probes have in common that serve a feed."""

from __future__ import annotations

from typing import Generic, TypeVar

from ssmt_edge.network.feed import Feed

_T = TypeVar("_T")


class FeedProbe(Generic[_T]):
    """The counting part of a `Probe`; a subclass publishes what it sends in `feed`."""

    address: str

    def __init__(self) -> None:
        self.feed: Feed[_T] = Feed()

    @property
    def clients(self) -> int:
        return self.feed.receivers

    @property
    def sent(self) -> int:
        return self.feed.sent

    @property
    def skipped(self) -> int:
        return self.feed.skipped
