"""The simulated probe: what comes out of it, by which clock, and what clients that misbehave do to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from commands import ROOT, RUN, Cli, error_line
from fakes import wait_until
from numpy.typing import NDArray

from ssmt_edge.errors import MissingDependency, UsageError
from ssmt_edge.network.feed import Feed
from ssmt_edge.simulate import open_probe, rtsp_server
from ssmt_edge.simulate import play as playing
from ssmt_edge.simulate.play import Played, play
from ssmt_edge.simulate.rtsp import RtspProbe
from ssmt_edge.sources import Frame, open_source
from ssmt_edge.sources.base import BaseSource

pytestmark = pytest.mark.timeout(100)

RNG = np.random.default_rng(5)
GRAY = [RNG.integers(0, 256, (30, 41), dtype=np.uint8) for _ in range(6)]
COLOUR = [RNG.integers(0, 256, (30, 41, 3), dtype=np.uint8) for _ in range(6)]
SPACING = (0.125, 0.25)


class Clip(BaseSource):
    """Frames in memory, each of which may take its time."""

    fps = 50.0

    def __init__(self, images: Sequence[NDArray[np.uint8]], slow: Sequence[float] = ()) -> None:
        super().__init__("clip")
        self._images = images
        self._slow = slow

    def __iter__(self) -> Iterator[Frame]:
        for i, image in enumerate(self._images):
            time.sleep(self._slow[i] if self._slow else 0)
            yield Frame(i, i * 20.0, image, SPACING)


class Reader(threading.Thread):
    """Takes every frame of a source."""

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True)
        self.source = open_source(uri)
        self.frames: list[Frame] = []
        self.start()

    def run(self) -> None:
        for frame in self.source:
            self.frames.append(frame)

    def close(self) -> None:
        self.source.close()
        self.join(5)
        assert not self.is_alive()


class Playing(threading.Thread):
    """A probe that plays."""

    def __init__(self, source: Any, probe: Any, **options: Any) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self._play = lambda: play(source, probe, stop=self.stop, **options)
        self.start()

    def run(self) -> None:
        self.played = self._play()

    def end(self, seconds: float = 20.0) -> Played:
        self.join(seconds)
        assert not self.is_alive()
        return self.played


@pytest.mark.parametrize("images", [GRAY, COLOUR], ids=["gray", "colour"])
def test_two_clients_get_every_frame_as_it_was(images: list[NDArray[np.uint8]]) -> None:
    pytest.importorskip("pyigtl")
    probe: Any = open_probe("igtl://:0", 50)
    readers = [Reader(probe.address) for _ in range(2)]
    wait_until(lambda: probe.clients == 2)
    played = Playing(Clip(images), probe, frames=20).end()
    for reader in readers:
        wait_until(lambda r=reader: len(r.frames) == 20)
        reader.close()
        assert [frame.index for frame in reader.frames] == list(range(20))
        for frame in reader.frames:
            assert np.array_equal(frame.pixels, images[frame.index % 6])
            assert frame.spacing_mm == SPACING
            # by the time stamps: not when it arrived, but when it was due
            assert frame.t_source_ms == pytest.approx(frame.index * 20, abs=0.01)
    assert (played.frames, played.sent, played.skipped) == (20, 20, 0)
    assert played.seconds == pytest.approx(0.4, abs=0.3)


def test_a_client_that_comes_late_counts_from_its_first_frame() -> None:
    pytest.importorskip("pyigtl")
    probe: Any = open_probe("igtl://:0", 50)
    running = Playing(Clip(GRAY), probe, fps=100)
    time.sleep(0.15)
    reader = Reader(probe.address)
    wait_until(lambda: len(reader.frames) >= 5)
    running.stop.set()
    played = running.end()
    reader.close()
    assert [frame.index for frame in reader.frames[:5]] == [0, 1, 2, 3, 4]
    assert played.sent < played.frames - 5 and played.skipped == 0


def test_a_client_that_stalls_stops_neither_clock_nor_others() -> None:
    pytest.importorskip("pyigtl")
    images = [np.full((480, 640), i, np.uint8) for i in range(8)]
    probe: Any = open_probe("igtl://:0", 50)
    host, port = probe.address.removeprefix("igtl://").split(":")
    with socket.create_connection((host, int(port))):
        reader = Reader(probe.address)
        wait_until(lambda: probe.clients == 2)
        played = Playing(Clip(images), probe, frames=60).end()
        wait_until(lambda: reader.frames and reader.frames[-1].index == 59)
        reader.close()
    assert played.frames == 60
    assert played.seconds == pytest.approx(1.2, abs=0.4)
    assert 20 < played.skipped < 60
    assert len(reader.frames) > 50  # all of them on a machine that has nothing else to do


def test_what_is_sent_and_skipped_is_everything() -> None:
    """One client that stalls for a while: the numbers that it got tell which ones it missed."""
    pytest.importorskip("pyigtl")
    probe: Any = open_probe("igtl://:0", 50)
    source = open_source(probe.address)
    wait_until(lambda: probe.clients)
    running = Playing(Clip([np.full((480, 640), i, np.uint8) for i in range(8)]), probe, frames=80, fps=100)
    frames = iter(source)
    got = [next(frames)]
    time.sleep(0.5)
    while got[-1].index < 79:
        got.append(next(frames))
        assert int(got[-1].pixels[0, 0]) == got[-1].index % 8
    source.close()
    played = running.end()
    assert played.sent + played.skipped == played.frames == 80
    assert len(got) == played.sent < 80


class Recorder:
    """A probe that notes when which number went out."""

    address = "here"
    clients = 1
    skipped = 0

    def __init__(self) -> None:
        self.came: list[tuple[int, float, float]] = []
        self.closed = False

    @property
    def sent(self) -> int:
        return len(self.came)

    def pack(self, frame: Frame) -> NDArray[np.uint8]:
        return frame.pixels

    def send(self, packed: NDArray[np.uint8], number: int, stamp: float) -> None:
        self.came.append((number, stamp, float(packed[0, 0])))

    def close(self) -> None:
        self.closed = True


def test_numbers_go_by_the_clock_when_the_source_is_late() -> None:
    recorder = Recorder()
    images = [np.full((2, 2), i, np.uint8) for i in range(5)]
    played = Playing(Clip(images, [0, 0, 0.31, 0, 0]), recorder, fps=20, frames=12, loop=False).end()
    numbers = [number for number, _, _ in recorder.came]
    assert numbers[:2] == [0, 1] and 6 <= numbers[2] <= 9 and numbers[3:] == [numbers[2] + 1, numbers[2] + 2]
    assert [value for _, _, value in recorder.came] == [0, 1, 2, 3, 4]  # late ones are sent all the same
    start = recorder.came[0][1]
    assert [stamp - start for _, stamp, _ in recorder.came] == pytest.approx([n / 20 for n in numbers], abs=1e-5)
    assert played.frames == numbers[-1] + 1 and played.skipped == played.frames - 5
    assert recorder.closed


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_a_loop_is_the_same_from_memory_and_read_again(
    kept: int, phantom_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playing, "KEPT", kept)
    folder = phantom_set / "test-image"
    once = [float(frame.pixels[0, 0]) for frame in open_source(str(folder))]
    recorder = Recorder()
    Playing(open_source(str(folder)), recorder, fps=200, frames=3 * len(once)).end()
    values = [value for _, _, value in recorder.came]
    assert len(values) > len(once)
    assert all(value == once[i % len(once)] for i, value in enumerate(values))


def test_it_ends_with_the_source_after_a_time_and_when_told() -> None:
    one, two, three = Recorder(), Recorder(), Recorder()
    assert Playing(Clip(GRAY), one, loop=False).end().frames == 6
    assert Playing(Clip(GRAY), two, seconds=0.3).end().frames == 15
    running = Playing(Clip(GRAY), three, fps=0.1)
    time.sleep(0.1)
    running.stop.set()
    assert running.end(1).frames == 1


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 1e9])
def test_rates_that_make_no_sense(fps: float) -> None:
    with pytest.raises(UsageError, match="fps is"):
        play(Clip(GRAY), Recorder(), fps=fps, stop=threading.Event())


def test_a_feed_counts_what_a_receiver_that_leaves_did_not_take() -> None:
    feed: Feed[int] = Feed()
    with suppress(OSError), feed.receive() as items:
        feed.publish(1)
        feed.publish(2)
        assert next(items) == 1
        assert next(items) == 2
        feed.publish(3)
        raise OSError
    assert (feed.sent, feed.skipped, feed.receivers) == (1, 2, 0)
    feed.publish(4)
    assert (feed.sent, feed.skipped) == (1, 2)


@contextmanager
def command(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ssmt-edge simulate` in a process of its own, and the address that it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "simulate", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("probe at "), line
        yield process, line.split(",")[0].removeprefix("probe at ")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_its_counts(number: signal.Signals, phantom_set: Path) -> None:
    with command(phantom_set / "test-image", "--as", "igtl://:0", "--fps", 50, "--wait", "--json") as (
        process,
        address,
    ):
        host, port = address.removeprefix("igtl://").split(":")
        with socket.create_connection((host, int(port))) as client:
            assert client.recv(2)  # it waited for this client
            process.send_signal(number)
            out, err = process.communicate(timeout=10)
        socket.create_server((host, int(port))).close()  # the port is free again
    assert process.returncode == 128 + number and err == ""
    counts = json.loads(out)
    assert set(counts) == {"frames", "sent", "skipped", "seconds", "fps"}
    assert counts["sent"] + counts["skipped"] == counts["frames"] >= 1


def test_a_probe_that_is_killed_and_returns(phantom_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyigtl")
    monkeypatch.setattr("ssmt_edge.sources.live.LONGEST_PAUSE_S", 0.5)
    folder = phantom_set / "test-image"
    with command(folder, "--as", "igtl://:0", "--fps", 50) as (process, address):
        reader = Reader(address)
        states: list[str] = []
        reader.source.on_state = states.append
        wait_until(lambda: len(reader.frames) > 5)
        process.kill()
        wait_until(lambda: states == ["lost"])
        before = len(reader.frames)
    with command(folder, "--as", address, "--fps", 50):
        wait_until(lambda: len(reader.frames) > before + 5)
        reader.close()
    assert states[:2] == ["lost", "running"]
    indices = [frame.index for frame in reader.frames]
    assert indices == sorted(set(indices))
    times = [frame.t_source_ms for frame in reader.frames]
    assert times == sorted(times)


@pytest.mark.parametrize("protocol", ["igtl", "mjpeg", "rtsp"])
def test_a_port_in_use_is_one_line(protocol: str, cli: Cli, phantom_set: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"{protocol}://:{taken.getsockname()[1]}"
        if protocol == "rtsp":
            needs_rtsp()
        answer = cli("simulate", phantom_set / "test-image", "--as", uri)
    assert "in use" in error_line(answer)


@pytest.mark.parametrize(
    ("uri", "words", "code"),
    [
        ("udp://:5000", "expected one of igtl://", 2),
        ("igtl", "expected one of igtl://", 2),
        ("igtl://:port", "igtl://HOST:PORT", 1),
        ("igtl://no.such.host.invalid:18944", "cannot listen on", 1),
        ("v4l2:///dev/video99", "modprobe v4l2loopback", 1),
        ("v4l2:///dev/null", "modprobe v4l2loopback", 1),
    ],
)
def test_refusals(uri: str, words: str, code: int, cli: Cli, phantom_set: Path) -> None:
    answer = cli("simulate", phantom_set / "test-image", "--as", uri)
    assert words in error_line(answer, code)


def test_mjpeg_is_read_by_ffmpeg(phantom_set: Path) -> None:
    folder = phantom_set / "test-image"
    given = [frame.pixels for frame in open_source(str(folder))]
    probe: Any = open_probe("mjpeg://:0", 50)
    running = Playing(open_source(str(folder)), probe, fps=50, wait=True)
    with av.open(probe.address, timeout=10) as container:
        images = [image for image, _ in zip(container.decode(video=0), range(8), strict=False)]
    running.stop.set()
    assert running.end().sent >= 8
    for i, image in enumerate(images):
        pixels = image.to_ndarray(format="gray" if given[0].ndim == 2 else "rgb24")
        assert np.abs(pixels.astype(int) - given[i % len(given)]).mean() < 2


@cache
def rtsp_missing() -> str:
    try:
        RtspProbe("rtsp://:0", 25).close()
    except MissingDependency as error:
        return str(error)
    return ""


def needs_rtsp() -> None:
    if rtsp_missing():
        pytest.skip(rtsp_missing())


@pytest.mark.parametrize(("components", "codec"), [(1, "h264"), (3, "h264"), (3, "mjpeg")])
def test_rtsp_is_read_by_ffmpeg(components: int, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_rtsp()
    if codec == "mjpeg":  # as where x264 is not installed
        server = tmp_path / "rtsp_server.py"
        server.write_text(Path(rtsp_server.__file__).read_text().replace('find("x264enc")', 'find("none")'))
        monkeypatch.setattr(rtsp_server, "__file__", str(server))
    # odd sides, which neither H.264 nor GStreamer's rows of pixels have, and the whole range of values
    y, x = np.mgrid[:61, :93]
    ramps = np.stack([x / 92, y / 60, (x + y) / 152], -1)
    images = [np.round(255 * turned).astype(np.uint8) for turned in (ramps, 1 - ramps)]
    given = images if components == 3 else [image[..., 0] for image in images]
    probe: Any = open_probe("rtsp://:0", 25)
    running = Playing(Clip(given), probe, fps=25, wait=True)
    time.sleep(0.3)
    with av.open(probe.address, options={"rtsp_transport": "tcp"}, timeout=10) as container:
        decoded = [image for image, _ in zip(container.decode(video=0), range(10), strict=False)]
        assert container.streams.video[0].codec_context.name == codec
    running.stop.set()
    assert running.end().sent >= 10
    for image in decoded:
        assert (image.height, image.width) == ((62, 94) if codec == "h264" else (64, 96))
        pixels = image.to_ndarray(format="rgb24")[:61, :93].astype(int)
        distances = [np.abs(pixels - np.atleast_3d(shown)).mean() for shown in given]
        assert min(distances) < 4, distances
    assert probe._process.returncode == 0


def test_the_rtsp_server_does_not_outlive_a_killed_probe(phantom_set: Path) -> None:
    needs_rtsp()
    with command(phantom_set / "test-image", "--as", "rtsp://:0") as (process, address):
        host, port = address.removeprefix("rtsp://").removesuffix("/probe").split(":")
        socket.create_connection((host, int(port))).close()
        process.kill()
        process.wait()

        def refused() -> bool:
            try:
                socket.create_connection((host, int(port))).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_until(refused, 10)


def test_rtsp_without_gstreamer_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python3"  # one that does not find the bindings
    python.write_text(f"#!/bin/sh\nexit {rtsp_server.MISSING}\n")
    python.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(MissingDependency, match="apt install python3-gi"):
        open_probe("rtsp://:0", 25)
