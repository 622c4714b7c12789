"""Live sources: connections that end, come back, bring damaged frames, hang or refuse, and what is told of it."""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fakes import disc

from ssmt_edge.errors import SourceError, SourceLost
from ssmt_edge.sources import Frame, Source, live, receiver
from ssmt_edge.sources.base import BaseSource
from ssmt_edge.sources.live import Live
from ssmt_edge.sources.receiver import Receiver

pytestmark = pytest.mark.timeout(60)


def take(source: Source, count: int) -> list[Frame]:
    return list(itertools.islice(source, count))


def ends_within(seconds: float, source: Source) -> bool:
    """Whether an iteration in another thread ends when the source is closed."""
    thread = threading.Thread(target=lambda: list(source), daemon=True)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    source.close()
    thread.join(seconds)
    return not thread.is_alive()


# the source that opens its connection again


class Connection(BaseSource):
    """Yields frames with the given indices, then raises or ends."""

    live = True

    def __init__(self, indices: list[int], error: Exception | None = None, numbered: bool = False) -> None:
        super().__init__("fake://")
        self.fps = 30.0
        self.counts = {"frames eaten": 2}
        self.numbered = numbered
        self.closed = False
        self._indices, self._error = indices, error

    def __iter__(self) -> Iterator[Frame]:
        for index in self._indices:
            yield Frame(index, 10.0 * index, disc())
        if self._error:
            raise self._error

    def close(self) -> None:
        self.closed = True


class Waiting(BaseSource):
    """A frame, then nothing until it is closed."""

    live = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        yield Frame(0, 0.0, disc())
        self.waiting = "the gain is down"
        self._closed.wait(10)

    def close(self) -> None:
        self._closed.set()


class Opener:
    """Opens what is planned, one after another; an exception is raised instead. Then nothing ever comes."""

    def __init__(self, *planned: BaseSource | Exception) -> None:
        self.calls: list[float] = []
        self._planned = list(planned)

    def __call__(self) -> Source:
        self.calls.append(time.perf_counter())
        following = self._planned.pop(0) if self._planned else SourceError("nobody there")
        if isinstance(following, Exception):
            raise following
        return following


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses before a lost source is opened again."""
    monkeypatch.setattr(live, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(live, "LONGEST_PAUSE_S", 0.2)


def test_the_first_connection_fails_at_once() -> None:
    with pytest.raises(SourceError, match="nobody there"):
        Live("fake://", Opener())


@pytest.mark.parametrize("numbered", [False, True])
def test_a_source_comes_back_and_goes_on(soon: None, numbered: bool) -> None:
    connections = [
        Connection([0, 1, 4], SourceLost("cable\npulled"), numbered),
        Connection([8, 9], None, numbered),  # ends
        Connection([0, 2], SourceError("damaged"), numbered),  # the sender has begun anew
    ]
    opener = Opener(connections[0], SourceError("not yet"), connections[1], connections[2])
    source = Live("fake://", opener)
    states: list[str] = []
    source.on_state = states.append
    with closing(source):
        frames = take(source, 7)
        assert source.state == "running"
    # an unnumbered sender may have sent anything meanwhile: no gap is made up, but those of a connection stay
    assert [f.index for f in frames] == ([0, 1, 4, 8, 9, 10, 12] if numbered else [0, 1, 4, 13, 14, 15, 17])
    times = [f.t_source_ms for f in frames]
    assert times == sorted(times) and times[2] == 40
    assert 150 <= times[3] - times[2] < 1000  # two pauses: 50 and 100 ms
    assert times[4] - times[3] == pytest.approx(10)
    assert states == ["lost", "running", "lost", "running"]
    assert all(connection.closed for connection in connections)
    assert source.notes[0] == "fake://: 6 frames eaten"
    assert "was lost 2 times" in source.notes[1] and "last: damaged" not in source.notes[1]


def test_the_run_that_closes_a_source_is_no_cause_of_a_loss(soon: None) -> None:
    lost = [Connection([0], SourceLost("unplugged")), Connection([0], SourceLost("fake:// is on fire"))]
    waits = Waiting("fake://")
    with closing(Live("fake://", Opener(*lost, waits))) as source:
        frames = iter(source)
        assert [next(frames).index, next(frames).index] == [0, 1]
        assert source.why == "fake://: unplugged" and source.waiting == ""
        assert next(frames).index == 2 and source.why == "fake:// is on fire"
        told: list[str] = []

        def stop() -> None:
            told.append(source.waiting)
            source.close()

        threading.Timer(0.2, stop).start()
        assert list(frames) == [] and told == ["the gain is down"]
    assert source.notes[-1].startswith("fake:// was lost 2 times") and source.notes[-1].endswith("fake:// is on fire")


def test_pauses_grow_until_a_frame_comes(monkeypatch: pytest.MonkeyPatch, soon: None) -> None:
    empty = Connection([])  # opens and brings nothing: no reason to hurry
    opener = Opener(Connection([0]), SourceError("no"), empty, SourceError("no"), SourceError("no"), Connection([0]))
    source = Live("fake://", opener)
    with closing(source):
        assert len(take(source, 2)) == 2
    pauses = np.diff(opener.calls)
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.2, 0.2], abs=0.04)
    assert source.notes[-1].startswith("fake:// was lost once, for 0.")


def test_the_pauses_as_they_are() -> None:
    assert (live.FIRST_PAUSE_S, live.LONGEST_PAUSE_S) == (0.5, 8.0)


def test_close_ends_the_pause() -> None:
    source = Live("fake://", Opener(Connection([0])))
    assert ends_within(1.0, source)
    assert source.state == "lost" and "was lost once, for 0." in source.notes[-1]


def test_close_ends_an_attempt_that_hangs(soon: None) -> None:
    first, late, answer = Connection([0]), Connection([0]), threading.Event()
    opened = iter([first, late])

    def open() -> Source:
        connection = next(opened)
        assert connection is first or answer.wait(20)
        return connection

    assert ends_within(1.0, Live("fake://", open))
    answer.set()
    deadline = time.monotonic() + 5
    while not late.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert late.closed, "the connection that came after `close` is left open"


def test_a_bug_is_no_lost_connection(soon: None) -> None:
    for opener in (Opener(Connection([0], ZeroDivisionError())), Opener(Connection([0]), ZeroDivisionError())):
        with pytest.raises(ZeroDivisionError):
            list(Live("fake://", opener))


# the thread that receives


class Scripted(Receiver[int]):
    """Hands over what the test puts into `script`, as gray frames of that value."""

    def __init__(self, script: Callable[[], Iterator[int]]) -> None:
        super().__init__("scripted://")
        self._script = script
        self.start()

    def receive(self, opened: Callable[[], None]) -> Iterator[tuple[float, int]]:
        opened()
        for value in self._script():
            if value < 0:
                self.missed("broken", -value)
            else:
                yield value / 10, value

    def pixels(self, raw: int) -> np.ndarray:
        return np.full((4, 4), raw, np.uint8)


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    burst = threading.Event()

    def script() -> Iterator[int]:
        yield 0
        burst.wait(10)
        yield from (1, 2, 3, -2, 4)

    source = Scripted(script)
    frames = iter(source)
    assert next(frames).index == 0
    burst.set()
    source._thread.join(10)  # everything has arrived before the next frame is asked for
    newest = next(frames)
    assert (newest.index, newest.t_source_ms, newest.pixels[0, 0]) == (6, 400.0, 4)
    with pytest.raises(SourceLost, match="ended"):
        next(frames)
    assert source.counts == {receiver.REPLACED: 3, "broken": 2}  # the gap from 0 to 6


def test_silence_is_a_loss_and_close_ends_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def script() -> Iterator[int]:
        yield 0
        release.wait(20)

    assert ends_within(1.0, Scripted(script))
    monkeypatch.setattr(receiver, "SILENCE_S", 0.2)
    with closing(Scripted(script)) as source, pytest.raises(SourceLost, match=r"no frame for 0\.2 s"):
        list(source)
    release.set()


# the example of the documentation


class Device:
    """What the example takes for the maker's device: two frames, then it is unplugged."""

    fps = 60.0

    def __init__(self, error: type[Exception]) -> None:
        self.closed = False
        self._error = error
        self._grabbed = 0

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def seconds(self) -> float:
        return self._grabbed / self.fps

    def grab(self) -> bytes:
        time.sleep(0.1)
        self._grabbed += 1
        if self._grabbed > 2:
            raise self._error("unplugged")
        return bytes([self._grabbed]) * (720 * 1280)


def test_the_grabber_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / "docs" / "sources.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "import vendor" in block]
    vendor: Any = ModuleType("vendor")
    vendor.Error = type("Error", (Exception,), {})
    devices = [Device(vendor.Error)]

    def open() -> Device:
        if not devices[-1].closed:
            return devices[-1]
        raise vendor.Error("not plugged in")

    vendor.open = open
    monkeypatch.setitem(sys.modules, "vendor", vendor)
    example: dict[str, Any] = {}
    exec(code, example)
    source = example["open_uri"]("grabber://me:secret@0")
    states: list[str] = []
    why: list[str] = []

    def on_state(state: str) -> None:
        states.append(state)
        why.append(source.why)
        source.close()

    source.on_state = on_state
    frames = list(source)
    assert source.name == "grabber://0" and source.fps == 60
    assert frames and all(f.pixels.shape == (720, 1280) and f.spacing_mm == (0.08, 0.08) for f in frames)
    assert frames[0].roi is not None and frames[0].roi.width == 1000
    assert states == ["lost"] and why == ["grabber://0 is gone: unplugged"] and devices[0].closed
    with pytest.raises(SourceError, match=r"^grabber://0 cannot be opened: not plugged in$"):
        example["open_uri"]("grabber://me:secret@0")
