"""Playing files: rate, start, stop and loop."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import write_folder
from test_live_sources import Connection, ends_within
from test_sources import STORED, write_dicom, write_video

from ssmt_edge.errors import SourceError, UsageError
from ssmt_edge.sources import Frame, Source, open_source
from ssmt_edge.sources.playback import Play, Playback, parse_rate

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames, 20 a second."""
    return write_video(tmp_path_factory.mktemp("video") / "a.mkv", 30)


def played(path: Path, **options: Any) -> list[Frame]:
    with open_source(str(path), Play(**options)) as source:
        return list(source)


def test_from_start_to_stop_with_the_files_own_numbers_and_times(video: Path) -> None:
    frames = played(video, start=0.5, stop=1.0)
    assert [f.index for f in frames] == list(range(10, 20))
    assert [f.t_source_ms for f in frames] == pytest.approx([50.0 * i for i in range(10, 20)], abs=1)
    whole = played(video)
    assert len(whole) == 30 and (frames[0].pixels == whole[10].pixels).all()


def test_loops_count_on(video: Path) -> None:
    with open_source(str(video), Play(loop=True, start=1.0, stop=1.2)) as source:
        assert source.frame_count is None
        frames = list(itertools.islice(source, 11))
    assert [f.index for f in frames] == list(range(20, 31))
    assert [f.t_source_ms for f in frames] == pytest.approx([1000 + 50 * i for i in range(11)], abs=1)
    assert (frames[0].pixels == frames[4].pixels).all() and not (frames[0].pixels == frames[1].pixels).all()


def test_a_single_image_loops_too(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    with open_source(str(tmp_path), Play(loop=True)) as source:
        frames = list(itertools.islice(source, 3))
    assert [(f.index, f.t_source_ms) for f in frames] == [(0, 0.0), (1, 40.0), (2, 80.0)]


@pytest.mark.parametrize(("rate", "seconds"), [("native", 1.45), (60.0, 29 / 60), ("max", 0.0)])
def test_rates(video: Path, rate: Any, seconds: float) -> None:
    with open_source(str(video), Play(rate=rate)) as source:
        assert source.frame_count in (30, None) and source.fps == pytest.approx(20)
        came, waited = [], []
        for frame in source:
            came.append(time.perf_counter())
            waited.append(frame.waited_ms)
            if frame.index == 15:
                time.sleep(0.1)  # what a slow frame costs is caught up with
    assert came[-1] - came[0] == pytest.approx(max(seconds, 0.1), abs=0.09)
    # what is not spent here is waited for, and told
    assert sum(waited) / 1e3 == pytest.approx(max(seconds - 0.1, 0.0), abs=0.15)
    if rate != "max":
        steps = np.diff(came[:15])
        assert np.median(steps) == pytest.approx(seconds / 29, abs=0.005)


def test_notes_of_every_loop_are_kept_once(tmp_path: Path) -> None:
    class Noting(Connection):
        live = False

        def __iter__(self) -> Any:
            self.notes.append("3 damaged packets left out")
            return super().__iter__()

    with closing(Playback(lambda: Noting([0, 1]), Play(loop=True))) as source:
        assert len(list(itertools.islice(source, 7))) == 7
    assert source.notes == ["3 damaged packets left out"]


def test_close_ends_waiting_and_looping(video: Path, tmp_path: Path) -> None:
    assert ends_within(0.5, open_source(str(video), Play(rate=0.01)))
    assert ends_within(1.0, open_source(str(video), Play(loop=True)))
    # as the pipeline stops a file: the iteration ends, then the thread that iterated closes
    source = open_source(str(video), Play(rate=0.01))
    threading.Timer(0.1, source.interrupt).start()
    assert len(list(source)) == 1
    source.close()


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0.0},
        {"rate": -5.0},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"rate": "fast"},
        {"start": -1.0},
        {"start": float("nan")},
        {"start": 2.0, "stop": 2.0},
        {"stop": float("nan")},
    ],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Play(**options)


def test_a_typed_rate() -> None:
    assert [parse_rate(text) for text in ("native", "max", "12.5")] == ["native", "max", 12.5]
    with pytest.raises(UsageError, match="'fast', expected native, max or frames a second"):
        parse_rate("fast")


def test_a_start_beyond_the_end(video: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing to play from 5 s on: its last frame is at 1\.45 s"):
        played(video, start=5.0)
    with pytest.raises(SourceError, match="nothing to play"):
        played(write_dicom(tmp_path / "a.dcm", STORED), start=5.0, loop=True)
    with pytest.raises(SourceError, match="nothing to play from"):
        played(video, start=0.06, stop=0.09)


def test_a_live_source_can_only_be_watched() -> None:
    connection = Connection([0])
    opened: Source = connection
    with pytest.raises(UsageError, match="is live; --rate, --loop, --start and --stop are for files"):
        Playback(lambda: opened, Play(loop=True))
    assert connection.closed


def test_without_options_nothing_is_in_between(video: Path) -> None:
    with open_source(str(video), Play()) as source:
        assert not isinstance(source, Playback)
