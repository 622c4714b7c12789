"""Cameras and streams: MJPEG over HTTP, RTSP, frame grabbers and CSI, as far as a machine without them can tell."""

from __future__ import annotations

import base64
import itertools
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import disc
from test_live_sources import ends_within, take
from test_sources import write_video

from ssmt_edge.errors import SourceError, SourceLost, UsageError
from ssmt_edge.sources import av_live, csi, live, open_source, receiver, without_credentials

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses before a lost source is opened again."""
    monkeypatch.setattr(live, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(live, "LONGEST_PAUSE_S", 0.2)


# MJPEG over HTTP


def jpeg(step: int, size: tuple[int, int] = (120, 160), colour: bool = True) -> bytes:
    noise = np.random.default_rng(step).integers(0, 40, size, np.uint8)
    image = disc(size, (40 + step, 60)) + noise
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if colour else image)[1])


class Camera(ThreadingHTTPServer):
    """Sends `parts(number of the connection)` as an MJPEG stream, 100 a second."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, parts: Callable[[int], Iterator[bytes]], port: int = 0) -> None:
        camera = self
        connections = itertools.count()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:secret").decode()
                if self.path == "/private" and not known:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                if self.path not in ("/live", "/private"):
                    self.send_error(403 if self.path.startswith("/banned") else 404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for part in parts(next(connections)):
                        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(part)
                        self.wfile.write(head + part + b"\r\n")
                        if camera.gone.wait(0.01):
                            return
                except OSError:  # the client is gone
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self.gone = threading.Event()
        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, credentials: str = "") -> str:
        return f"http://{credentials}127.0.0.1:{self.server_port}/live"

    def leave(self) -> None:
        self.gone.set()
        self.shutdown()
        self.server_close()


@contextmanager
def camera(parts: Callable[[int], Iterator[bytes]], port: int = 0) -> Iterator[Camera]:
    served = Camera(parts, port)
    try:
        yield served
    finally:
        served.leave()


def test_mjpeg_with_damage_and_changes_of_size() -> None:
    cut, noise = jpeg(1)[:2000], os.urandom(2000)

    def parts(_: int) -> Iterator[bytes]:
        for i in range(10_000):
            broken = {20: cut, 21: noise, 25: b"no JPEG"}
            yield broken.get(i) or jpeg(i % 50, (120, 160) if i < 40 else (96, 128), colour=i < 60)

    with camera(parts) as served, closing(open_source(served.url("me:secret@"))) as source:
        assert source.live and source.name == served.url()
        frames = []
        for frame in source:
            frames.append(frame)
            if frame.index > 80:
                break
        shapes = list(dict.fromkeys(f.pixels.shape for f in frames))
        assert shapes == [(120, 160, 3), (96, 128, 3), (96, 128)]
        indices = [f.index for f in frames]
        assert indices == sorted(set(indices)) and indices[0] == 0
        # counted from the first frame that was watched, one of the first that were sent
        assert any({20 - late, 21 - late, 25 - late}.isdisjoint(indices) for late in range(15))
        times = [f.t_source_ms for f in frames]
        assert times == sorted(times) and 500 < times[-1] < 5000
        whole = next(f for f in frames if f.index > 25).pixels
        assert whole[60, 70].min() > 150 and whole[-5:].max() < 120  # nothing is painted over
    assert f"{served.url()}: 3 {av_live.DAMAGED}" in source.notes


def test_mjpeg_ends_disappears_and_comes_back(soon: None) -> None:
    def parts(connection: int) -> Iterator[bytes]:
        return (jpeg(i % 50) for i in range(10 if connection == 0 else 10_000))

    states: list[tuple[str, float]] = []
    with camera(parts) as served:
        port, url = served.server_port, served.url()
        source = open_source(url)
        source.on_state = lambda state: states.append((state, time.perf_counter()))
        frames, indices = iter(source), []
        while len(states) < 2:  # the first connection ends, the second one goes on
            indices.append(next(frames).index)
    back: list[Camera] = []
    threading.Timer(0.5, lambda: back.append(Camera(parts, port))).start()
    while len(states) < 4:
        indices.append(next(frames).index)
    assert [state for state, _ in states] == ["lost", "running"] * 2
    assert indices == sorted(set(indices))
    source.close()
    assert next(frames, None) is None
    back[0].leave()
    assert f"{url} was lost 2 times, for" in source.notes[-1]


def test_a_stream_that_stalls_is_lost(soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "SILENCE_S", 0.4)
    stalled = threading.Event()

    def parts(connection: int) -> Iterator[bytes]:
        yield from (jpeg(i) for i in range(5))
        if connection == 0:
            stalled.wait(20)
        yield from (jpeg(i) for i in range(10_000))

    with camera(parts) as served, closing(open_source(served.url())) as source:
        states: list[str] = []
        source.on_state = states.append
        for _ in source:
            if states:
                break
        assert "no frame for 0.4 s" in getattr(source, "why", "")
        stalled.set()


def test_refusals_are_one_line_without_secrets(tmp_path: Path) -> None:
    with camera(lambda _: iter([jpeg(0)] * 5)) as served:
        port = served.server_port
        private = f"127.0.0.1:{port}/private"
        with closing(open_source(f"http://me:secret@{private}")) as source:
            assert take(source, 1) and source.name == f"http://{private}"
        for wrong in ("", "me:Secret@"):
            with pytest.raises(SourceError, match="user and a password") as raised:
                open_source(f"http://{wrong}{private}")
            assert "Secret" not in str(raised.value)
        for path, message in [
            ("/banned?user=me&password=secret", "refuses this user"),
            ("/nothing", "no stream of that name"),
        ]:
            with pytest.raises(SourceError, match=message) as raised:
                open_source(f"http://me:secret@127.0.0.1:{port}{path}")
            assert "secret" not in str(raised.value) and "\n" not in str(raised.value)
    for scheme in ("http", "rtsp"):
        with pytest.raises(SourceError, match="connection refused") as raised:
            open_source(f"{scheme}://me:secret@127.0.0.1:{port}/live")
        assert "secret" not in str(raised.value)


def test_credentials_in_names() -> None:
    assert without_credentials("rtsp://me:p@ss/w?rd@host:554/a?channel=1") == "rtsp://host:554/a?channel=1"
    assert without_credentials("http://cam/a?user=me&pwd=x&size=1") == "http://cam/a?user=***&pwd=***&size=1"
    with pytest.raises(SourceError) as raised:
        open_source("rtps://me:secret@host/a")
    assert "secret" not in str(raised.value) and "rtsp://" in str(raised.value)


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "OPEN_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        started = time.perf_counter()
        with pytest.raises(SourceError, match=r"no answer within 0\.3 s"):
            open_source(f"http://127.0.0.1:{mute.getsockname()[1]}/live")
        assert time.perf_counter() - started < 2


def test_a_file_on_a_web_server_is_no_live_stream(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 20, "mpeg4")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(SourceError, match="is a file of 1 s and no live stream"):
        open_source(f"http://127.0.0.1:{server.server_port}/a.mp4")
    server.shutdown()
    server.server_close()


def test_the_senders_clock_is_kept_unless_it_jumps() -> None:
    clock = av_live._Clock()
    assert [clock(t) for t in (5.0, 5.1, 5.2)] == [5.0, 5.1, 5.2]
    jumped = clock(90_000.0)
    assert 5.2 <= jumped < 5.3
    assert clock(90_000.1) == pytest.approx(jumped + 0.1)
    assert clock(None) == pytest.approx(jumped + 0.1, abs=0.05)
    assert clock(0.0) == pytest.approx(jumped + 0.1, abs=0.05)


# RTSP

RTSP_SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GLib, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
factory.set_launch("( videotestsrc is-live=true pattern=smpte ! video/x-raw,width=320,height=240,framerate=30/1 ! "
                   "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 )")
server.get_mount_points().add_factory("/probe", factory); server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@contextmanager
def rtsp_server(port: int = 0) -> Iterator[int]:
    python = "/usr/bin/python3"
    if shutil.which(python) is None:
        pytest.skip("no system Python, whose GStreamer would serve RTSP")
    server = subprocess.Popen(
        [python, "-c", RTSP_SERVER, str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout and server.stderr
        line = server.stdout.readline()
        if not line:
            pytest.skip(f"GStreamer's RTSP server is not installed: {server.stderr.read().strip().splitlines()[-1]}")
        yield int(line)
    finally:
        server.kill()
        server.wait()


def test_rtsp_is_lost_and_comes_back(soon: None) -> None:
    states: list[str] = []
    with rtsp_server() as port:
        url = f"rtsp://127.0.0.1:{port}/probe"
        source = open_source(url)
        source.on_state = states.append
        frames = iter(source)
        first = list(itertools.islice(frames, 30))
        with pytest.raises(SourceError, match="no stream of that name"):
            open_source(f"rtsp://127.0.0.1:{port}/nothing")
    assert source.fps == pytest.approx(30)
    assert first[-1].pixels.shape == (240, 320, 3)
    steps = np.diff([f.t_source_ms for f in first]) / np.diff([f.index for f in first])
    assert np.median(steps) == pytest.approx(1000 / 30, abs=1)
    assert first[-1].pixels[50, 60].tolist() == pytest.approx([255, 255, 0], abs=12)  # the second of the colour bars
    with rtsp_server(port):
        last = next(f for f in frames if len(states) == 2)
    assert states == ["lost", "running"]
    assert last.index > first[-1].index and last.t_source_ms > first[-1].t_source_ms
    source.close()


# frame grabbers: no device here, so only what a URI means and how a missing device is told


def test_v4l2_options() -> None:
    assert av_live.v4l2_options("v4l2:///dev/video0") == ("/dev/video0", {})
    assert av_live.v4l2_options("v4l2:///dev/v4l/by-id/a?size=1280x720&fps=29.97&format=mjpeg") == (
        "/dev/v4l/by-id/a",
        {"video_size": "1280x720", "framerate": "29.97", "input_format": "mjpeg"},
    )


@pytest.mark.parametrize("rest", ["dev/video0", "", "/dev/video0?size=big", "/dev/video0?fps=0", "/dev/video0?speed=1"])
def test_v4l2_options_that_cannot_be(rest: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        open_source(f"v4l2://{rest}")


def test_v4l2_without_a_device(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such device"):
        open_source("v4l2:///dev/video77")
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source("v4l2:///dev/null")


def test_what_a_grabber_would_bring_through_ffmpeg() -> None:
    with closing(av_live.AvReceiver("bars", "smptebars=size=320x240:rate=30", "lavfi", {})) as source:
        assert source.fps == 30
        assert take(source, 3)[-1].pixels.shape == (240, 320, 3)


# CSI


def test_csi_uris(monkeypatch: pytest.MonkeyPatch) -> None:
    assert csi.parse("csi://0") == csi.Camera(0, 1280, 720, 30)
    assert csi.parse("csi://2?size=640x480&fps=60") == csi.Camera(2, 640, 480, 60)
    for uri in ("csi://", "csi://a", "csi:///dev/video0", "csi://0?size=0x4", "csi://0?fps=-1", "csi://0?speed=1"):
        with pytest.raises(UsageError, match="expected"):
            open_source(uri)


def test_csi_pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/gst-launch-1.0")
    monkeypatch.setattr(csi, "has_element", lambda name: name == "nvarguscamerasrc")
    one = csi.Camera(1, 640, 480, 60)
    assert csi.pipeline(csi.source_element(one), one, 7) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=640,height=480,framerate=60/1 ! nvvidconv "
        "! videoconvert ! video/x-raw,format=RGB,width=640,height=480 ! fdsink fd=7 sync=false"
    )
    monkeypatch.setattr(csi, "has_element", lambda name: name == "libcamerasrc")
    assert csi.source_element(csi.Camera(0)).startswith("libcamerasrc ! video/x-raw,width=1280")
    with pytest.raises(SourceError, match="first camera only"):
        csi.source_element(one)
    monkeypatch.setattr(csi, "has_element", lambda name: False)
    with pytest.raises(SourceError, match="nvarguscamerasrc"):
        csi.source_element(one)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SourceError, match=r"gstreamer1\.0-tools"):
        open_source("csi://0")


def gst(source: str, width: int = 322) -> csi.GstReceiver:
    if shutil.which(csi.LAUNCH) is None:
        pytest.skip(f"{csi.LAUNCH} is not installed")
    return csi.GstReceiver("csi://0", source, csi.Camera(0, width, 240, 30))


def test_a_gstreamer_pipe_brings_frames_and_is_ended() -> None:
    source = gst("videotestsrc is-live=true pattern=smpte")  # rows of 322 x 3 bytes are padded
    with closing(source):
        frames = take(source, 10)
    assert frames[-1].pixels.shape == (240, 322, 3)
    for frame in frames:
        assert frame.pixels[50, 20:322:46].tolist() == frames[0].pixels[50, 20:322:46].tolist()
    assert frames[0].pixels[50, 60].tolist() == pytest.approx([255, 255, 0], abs=12)
    assert source._process is not None and source._process.poll() is not None
    assert ends_within(1.0, gst("videotestsrc is-live=true"))


def test_a_gstreamer_process_that_fails_says_why() -> None:
    with pytest.raises(SourceError, match="nosuchelement"):
        gst("nosuchelement")
    with closing(gst("videotestsrc num-buffers=3")) as source, pytest.raises(SourceLost, match="GStreamer ended"):
        list(source)
