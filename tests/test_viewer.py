"""The viewer over HTTP and WebSocket: what pages get, what they may change, who is refused, and who slows whom."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import BrightEngine, disc, make_result, record_indices, video_frames, wait_until, write_folder

from ssmt_edge.errors import MissingDependency, SinkError, UsageError
from ssmt_edge.geometry import Roi
from ssmt_edge.health import Health
from ssmt_edge.pipeline import stream
from ssmt_edge.segment import Result, Segmenter
from ssmt_edge.sinks import Sink, SinkContext

pytest.importorskip("fastapi", reason="the extra `view` is not installed")
pytest.importorskip("uvicorn", reason="the extra `view` is not installed")
pytest.importorskip("websockets", reason="the extra `view` is not installed")
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ssmt_edge.viewer import Viewer, hub

ROI = Roi(40, 20, 80, 60)


class Stage:
    """A viewer that listens, with one stream."""

    def __init__(self, viewer: Viewer, folder: Path) -> None:
        self.viewer = viewer
        self.folder = folder
        self.segmenter = Segmenter(BrightEngine())
        self.health = Health()
        self.context = SinkContext(fps=25, segmenter=self.segmenter, health=self.health)
        self.sink: Sink = viewer.sink(self.context)
        self.port = int(viewer.url.partition("//")[2].partition("/")[0].rpartition(":")[2])
        self.host = f"127.0.0.1:{self.port}"

    def write(self, index: int, pixels: Any = None) -> Result:
        result = replace(make_result(index, pixels), roi=ROI)
        self.sink.write(result)
        return result

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
        """Status, body and headers; Host and Origin are the page's own unless given."""
        given = {"Host": self.host, "Content-Type": "application/json"}
        if method == "POST":
            given["Origin"] = f"http://{self.host}"
        given.update(headers)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {k: v for k, v in given.items() if v})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def post(self, path: str, **body: Any) -> tuple[int, bytes, Any]:
        return self.ask("POST", path, json.dumps({"stream": 0, **body}).encode())

    def page(self, **headers: str) -> ClientConnection:
        origin = headers.pop("origin", f"http://{self.host}")
        return connect(f"ws://{self.host}/live", origin=origin, additional_headers=headers, max_size=None)  # type: ignore[arg-type]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Viewer(port=0, folder=tmp_path / "kept") as viewer:
        yield Stage(viewer, tmp_path / "kept")


def pictures(page: ClientConnection, ack: bool = True) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Header and JPEG of each picture, acknowledged when it is taken."""
    while True:
        message = page.recv(timeout=5)
        if isinstance(message, bytes):
            (length,) = struct.unpack_from("<I", message)
            if ack:
                page.send('{"shown": true}')
            yield json.loads(message[4 : 4 + length]), message[4 + length :]


def statuses(page: ClientConnection) -> Iterator[dict[str, Any]]:
    while True:
        message = page.recv(timeout=5)
        if isinstance(message, str):
            yield json.loads(message)["streams"][0]


def test_a_page_gets_the_cut_picture_with_outline_and_measurements(stage: Stage) -> None:
    with stage.page() as page:
        result = stage.write(7)
        header, jpeg = next(pictures(page))
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert shown.shape[:2] == (ROI.height, ROI.width), "the frame is cut to the region"
    assert np.abs(shown.astype(int) - result.pixels[ROI.slices]).mean() < 3
    assert header["frame"] == 7 and header["size"] == [80, 60] and header["origin"] == [40, 20]
    mask = np.zeros((60, 80), np.uint8)
    cv2.fillPoly(mask, [np.array(points).reshape(-1, 2) for points in header["contours"]], 1)
    inside = result.mask[ROI.slices]
    assert 2 * (mask.astype(bool) & inside).sum() / (mask.sum() + inside.sum()) > 0.98
    (nodule,) = header["nodules"]
    assert nodule["unit"] == "px" and nodule["long"] == pytest.approx(result.nodules[0].long_px, abs=1e-3)
    long, _ = nodule["lines"]
    assert np.allclose(np.array(long) + np.array((ROI.x, ROI.y)), result.nodules[0].long_line, atol=1e-3)


def test_the_status_says_how_the_stream_does(stage: Stage) -> None:
    stage.health.dropped, stage.health.done = 3, 10
    for ms in (5.0, 7.0, 90.0):
        stage.health.latency.add(ms)
    stage.write(0)
    with stage.page() as page:
        said = next(statuses(page))
        assert said["state"] == "running" and said["dropped"] == 3 and said["age"] < 1
        assert said["p50"] == pytest.approx(7, rel=0.01) and said["p99"] == pytest.approx(90, rel=0.01)
        assert [point[3] for point in said["points"]] == ["px"], "the sizes before the page came are there"
        stage.health.state = "lost"
        assert any(said["state"] == "lost" for said, _ in zip(statuses(page), range(8), strict=False))
        stage.sink.close()
        assert any(said["state"] == "ended" for said, _ in zip(statuses(page), range(8), strict=False))


def test_the_whole_way_from_a_folder_of_frames(stage: Stage, tmp_path: Path) -> None:
    sink = stage.viewer.sink(SinkContext(fps=25))
    with stage.page() as page:
        done = list(stream(BrightEngine(), write_folder(tmp_path / "frames", 20), sinks=[sink]))
        header = next(header for header, _ in pictures(page) if header["stream"] == 1 and header["frame"] == 19)
    assert len(done) == 20 and len(header["nodules"]) == 1, "the last frame is always shown"


def test_settings_reach_the_segmenter(stage: Stage) -> None:
    stage.write(0)
    assert stage.post("/threshold", threshold=0.3)[0] == 200
    assert stage.post("/spacing", mm_per_pixel=0.08)[0] == 200
    assert stage.post("/roi", roi={"x": 100, "y": 30, "width": 500, "height": 40})[0] == 200
    assert (stage.segmenter.threshold, stage.segmenter.mm_per_pixel) == (0.3, 0.08)
    assert stage.segmenter.roi == Roi(100, 30, 60, 40), "clipped to the frame"
    assert stage.post("/spacing", mm_per_pixel=None)[0] == 200
    assert stage.post("/roi", roi="auto")[0] == 200
    assert (stage.segmenter.roi, stage.segmenter.mm_per_pixel) == ("auto", None)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage for what must not change it."""
    folder = tmp_path_factory.mktemp("steady") / "kept"
    with Viewer(port=0, folder=folder) as viewer:
        stage = Stage(viewer, folder)
        stage.write(0)
        yield stage


BOX = '{"x": 0, "y": 0, "width": 50, "height": 50'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/threshold", ""),
        ("/threshold", "[]"),
        ("/threshold", "no json"),
        ("/threshold", "[" * 4000),
        ("/threshold", '{"stream": 0}'),
        ("/threshold", '{"stream": 0, "threshold": NaN}'),
        ("/threshold", '{"stream": 0, "threshold": 1e999}'),
        ("/threshold", '{"stream": 0, "threshold": 1}'),
        ("/threshold", '{"stream": 0, "threshold": -0.5}'),
        ("/threshold", '{"stream": 0, "threshold": "0.5"}'),
        ("/threshold", '{"stream": 0, "threshold": true}'),
        ("/threshold", '{"stream": 0, "threshold": 0.5, "more": 1}'),
        ("/threshold", '{"stream": 7, "threshold": 0.5}'),
        ("/threshold", '{"stream": -1, "threshold": 0.5}'),
        ("/threshold", '{"stream": 1e300, "threshold": 0.5}'),
        ("/threshold", '{"stream": 0, "threshold": 0.5' + " " * 5000 + "}"),
        ("/spacing", '{"stream": 0, "mm_per_pixel": 0}'),
        ("/spacing", '{"stream": 0, "mm_per_pixel": 1e9}'),
        ("/spacing", '{"stream": 0, "mm_per_pixel": Infinity}'),
        ("/spacing", '{"stream": 0}'),
        ("/roi", '{"stream": 0, "roi": "full"}'),
        ("/roi", '{"stream": 0, "roi": null}'),
        ("/roi", '{"stream": 0, "roi": [0, 0, 50, 50]}'),
        ("/roi", '{"stream": 0, "roi": ' + BOX + ', "z": 1}}'),
        ("/roi", '{"stream": 0, "roi": ' + BOX.replace("50", "5") + "}}"),
        ("/roi", '{"stream": 0, "roi": ' + BOX.replace('"x": 0', '"x": 1.5') + "}}"),
        ("/roi", '{"stream": 0, "roi": ' + BOX.replace('"x": 0', '"x": 155') + "}}"),
        ("/roi", '{"stream": 0, "roi": ' + BOX.replace('"x": 0', '"x": 50000') + "}}"),
        ("/roi", '{"stream": 0, "roi": ' + BOX.replace('"x": 0', f'"x": {"9" * 4000}') + "}}"),
        ("/snapshot", '{"stream": 0, "frame": "../../etc/passwd"}'),
        ("/snapshot", '{"stream": 0, "frame": 99}'),
        ("/snapshot", '{"stream": 0, "name": "x.png"}'),
        ("/record", '{"stream": 0, "on": 1}'),
        ("/record", '{"stream": 0, "on": true, "file": "/tmp/x.mp4"}'),
    ],
)
def test_bad_input_is_refused_in_one_line_and_changes_nothing(steady: Stage, path: str, body: str) -> None:
    before = (steady.segmenter.threshold, steady.segmenter.mm_per_pixel, steady.segmenter.roi)
    status, answer, headers = steady.ask("POST", path, body.encode())
    assert 400 <= status < 500, answer
    text = json.loads(answer)["error"] if "json" in headers["Content-Type"] else answer.decode().strip()
    assert text and "\n" not in text and "Traceback" not in text
    assert (steady.segmenter.threshold, steady.segmenter.mm_per_pixel, steady.segmenter.roi) == before
    assert not steady.folder.exists()


@pytest.mark.parametrize(
    "path",
    ["/docs", "/redoc", "/openapi.json", "/static/main.js", "/../app.py", "/%2e%2e/app.py", "//etc/passwd", "/app.py"],
)
def test_no_path_reaches_a_file_that_is_not_the_pages(steady: Stage, path: str) -> None:
    assert steady.ask("GET", path)[0] == 404


def test_every_answer_has_the_security_headers(steady: Stage) -> None:
    for method, path in (("GET", "/"), ("GET", "/main.js"), ("GET", "/nothing"), ("POST", "/threshold")):
        _, _, headers = steady.ask(method, path)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
        assert headers["Server"] is None
    assert steady.ask("GET", "/main.js")[2]["Content-Type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "192.168.1.7", "127.0.0.1.evil.example", "[", "a b"]
)
def test_foreign_host_names_are_refused(steady: Stage, host: str) -> None:
    assert steady.ask("GET", "/", Host=host)[0] in (400, 421)
    assert steady.ask("GET", "/", Host=f"localhost:{steady.port}")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", ""])
def test_foreign_origins_are_refused(steady: Stage, origin: str) -> None:
    body = b'{"stream": 0, "threshold": 0.3}'
    assert steady.ask("POST", "/threshold", body, Origin=origin)[0] == 403
    assert steady.segmenter.threshold == 0.5
    with pytest.raises(InvalidStatus) as refused:
        steady.page(origin=origin) if origin else connect(f"ws://{steady.host}/live")
    assert refused.value.response.status_code == 403


def test_other_than_loopback_needs_the_token(tmp_path: Path) -> None:
    with Viewer("0.0.0.0", 0, folder=tmp_path) as viewer:
        stage = Stage(viewer, tmp_path)
        stage.write(0)
        assert viewer.token is not None and len(viewer.token) >= 32 and viewer.url.endswith(f"/?token={viewer.token}")
        for path in ("/", "/?token=", "/?token=wrong", "/?token=%C3%A9", "/main.js", f"/main.js?token={viewer.token}"):
            status, answer, headers = stage.ask("GET", path)
            assert status == 401 and viewer.token.encode() not in answer and "Set-Cookie" not in headers
        assert stage.post("/threshold", threshold=0.3)[0] == 401
        with pytest.raises(InvalidStatus):
            stage.page()
        status, _, headers = stage.ask("GET", f"/?token={viewer.token}")
        assert status == 200 and "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
        cookie = headers["Set-Cookie"].partition(";")[0]
        assert stage.ask("GET", "/main.js", Cookie=cookie)[0] == 200
        assert stage.ask("GET", "/main.js", Cookie=cookie[:-1])[0] == 401
        assert stage.ask("GET", "/", Cookie=cookie, Host="evil.example")[0] == 421
        body = b'{"stream": 0, "threshold": 0.3}'
        assert stage.ask("POST", "/threshold", body, Cookie=cookie, Origin="http://evil.example")[0] == 403
        assert stage.ask("POST", "/threshold", body, Cookie=cookie)[0] == 200
        with stage.page(Cookie=cookie) as page:
            assert next(pictures(page))[0]["frame"] == 0
    assert Viewer(port=0, folder=tmp_path).token is None


def test_a_taken_port_is_one_line(steady: Stage, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=rf"port {steady.port}: Address already in use; choose another"):
        Viewer(port=steady.port, folder=tmp_path).start()
    with pytest.raises(UsageError, match="port is 70000"):
        Viewer(port=70000, folder=tmp_path)
    with pytest.raises(SinkError, match="cannot serve"):
        Viewer("203.0.113.1", 0, folder=tmp_path).start()


@pytest.mark.parametrize("module", ["uvicorn", "websockets", "fastapi"])
def test_a_missing_package_names_the_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "ssmt_edge.viewer.app", raising=False)
    with pytest.raises(MissingDependency, match=rf"{module} is not installed; it comes with the extra 'view'"):
        Viewer()


def test_a_snapshot_is_cut_and_is_of_the_frame_on_the_screen(stage: Stage) -> None:
    with stage.page() as page:
        shown = pictures(page)
        stage.write(0, disc(centre=(70, 50)))
        assert next(shown)[0]["frame"] == 0
        page.send('{"frozen": true}')
        time.sleep(0.1)
        for index in range(1, 40):
            stage.write(index, disc(centre=(100, 60)))
        names = []
        for frame in (0, None, None):
            status, data, headers = stage.post("/snapshot", frame=frame)
            assert status == 200 and headers["Content-Type"] == "image/png"
            names.append(headers["X-File-Name"])
            assert (stage.folder / names[-1]).read_bytes() == data
    assert len(set(names)) == 3 and sorted(path.name for path in stage.folder.iterdir()) == sorted(names)
    held, newest, _ = (cv2.imread(str(stage.folder / name)) for name in names)
    assert held.shape == (ROI.height, ROI.width, 3)
    assert held[30, 30].mean() > 100 > held[40, 75].mean() and newest[40, 75].mean() > 100 > newest[30, 25].mean()
    assert stage.post("/snapshot", frame=0)[0] == 409, "the page that held it is gone"


def test_a_recording_is_readable(stage: Stage) -> None:
    assert stage.post("/record", on=True)[0] == 200
    assert stage.post("/record", on=True)[0] == 200, "already on: nothing starts twice"
    for index in range(30):
        stage.write(index)
        time.sleep(0.005)
    status, answer, _ = stage.post("/record", on=False)
    said = json.loads(answer)
    assert status == 200 and said["errors"] == [] and len(said["files"]) == 2
    assert sorted(path.name for path in stage.folder.iterdir()) == sorted(said["files"])
    video, records = (stage.folder / name for name in said["files"])
    assert video_frames(video) == 30 and record_indices(records) == list(range(30))
    capture = cv2.VideoCapture(str(video))
    assert capture.read()[1].shape == (ROI.height, ROI.width, 3), "cut to the region"
    stage.sink.close()
    assert stage.post("/record", on=True)[0] == 409


def test_a_recording_ends_with_its_stream(stage: Stage) -> None:
    files = json.loads(stage.post("/record", on=True)[1])["files"]
    for index in range(5):
        stage.write(index)
    stage.sink.close()
    assert record_indices(stage.folder / files[1]) == list(range(5)) and video_frames(stage.folder / files[0]) == 5


def test_a_failing_disk_is_shown_and_does_not_end_the_stream(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.folder.write_text("a file where the folder should be")
    stage.write(0)
    for status, answer, _ in (stage.post("/snapshot"), stage.post("/record", on=True)):
        assert status == 507 and "cannot be written" in json.loads(answer)["error"]
    stage.folder.unlink()

    def full(self: Any, result: Result) -> None:
        raise SinkError("No space left on device; choose another place")

    monkeypatch.setattr("ssmt_edge.sinks.records.RecordsSink.write", full)
    assert stage.post("/record", on=True)[0] == 200
    with stage.page() as page:
        for index in range(1, 10):
            stage.write(index)
        said = next(said for said in statuses(page) if said["recording"]["errors"])
        assert "No space left on device" in said["recording"]["errors"][0]
        assert next(pictures(page))[0]["frame"] == 9
    files = json.loads(stage.post("/record", on=False)[1])["files"]
    assert video_frames(stage.folder / files[0]) == 9, "the other file goes on"


def test_a_slow_page_gets_the_newest_frame_and_a_quick_one_all(stage: Stage) -> None:
    with stage.page() as slow, stage.page() as quick:
        wait_until(lambda: len(stage.viewer._hub.pages) == 2)
        seen: list[int] = []
        reader = threading.Thread(target=lambda: seen.extend(h["frame"] for h, _ in _until(pictures(quick), 29)))
        reader.start()
        for index in range(30):
            stage.write(index)
            time.sleep(0.04)
        reader.join(5)
        unread = pictures(slow, ack=False)
        early = [next(unread)[0]["frame"] for _ in range(2)]
        assert early[1] < 15, "two are on the way"
        slow.send('{"shown": true}')
        assert next(unread)[0]["frame"] == 29, "nothing has piled up behind them"
    assert seen[-1] == 29 and len(seen) >= 25


def _until(items: Iterator[tuple[dict[str, Any], bytes]], last: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    for item in items:
        yield item
        if item[0]["frame"] == last:
            return


def test_a_page_that_never_reads_slows_nobody_and_is_given_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "STALLED_S", 0.7)
    monkeypatch.setattr("ssmt_edge.viewer.app.STALLED_S", 0.7)
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    hung = socket.create_connection(("127.0.0.1", stage.port))
    hung.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    hung.sendall(
        f"GET /live HTTP/1.1\r\nHost: {stage.host}\r\nOrigin: http://{stage.host}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: c3NtdC1lZGdlLXZpZXdlcg==\r\n\r\n".encode()
    )
    wait_until(lambda: len(stage.viewer._hub.pages) == 1)
    spent = []
    with stage.page() as page:
        seen: list[int] = []
        reader = threading.Thread(target=lambda: seen.extend(h["frame"] for h, _ in _until(pictures(page), 39)))
        reader.start()
        template = make_result(0, noise)
        for index in range(40):
            result = replace(template, frame=index)
            started = time.perf_counter()
            stage.sink.write(result)
            spent.append(time.perf_counter() - started)
            time.sleep(0.04)
        reader.join(5)
        assert seen[-1] == 39 and max(np.diff([0, *seen])) < 14, "the other page never waits for 0.7 s, 17 frames"
        wait_until(lambda: len(stage.viewer._hub.pages) == 1)
    hung.close()
    assert sorted(spent)[len(spent) // 2] < 1e-3, "what the pipeline pays is not the encoding, which takes several ms"


def test_nine_pages_are_one_too_many(stage: Stage) -> None:
    with ExitStack() as pages:
        for _ in range(hub.PAGES - 1):
            pages.enter_context(stage.page())
        with stage.page() as eighth:
            assert next(statuses(eighth))["state"] == "running"
            with pytest.raises(ConnectionClosed) as refused, stage.page() as ninth:
                ninth.recv(timeout=5)
            assert refused.value.rcvd is not None and refused.value.rcvd.code == 1013
        wait_until(lambda: len(stage.viewer._hub.pages) == hub.PAGES - 1)
        with stage.page() as again:
            assert next(statuses(again))["state"] == "running"


@pytest.mark.parametrize(
    "said", ["", "no json", '{"shown": "yes"}', '{"watch": [-1]}', '{"open": "/etc/passwd"}', b"\x00"]
)
def test_a_page_that_is_not_understood_is_closed(steady: Stage, said: str | bytes) -> None:
    with steady.page() as page, pytest.raises(ConnectionClosed):
        page.send(said)
        for _ in range(40):
            page.recv(timeout=5)
    wait_until(lambda: not steady.viewer._hub.pages)


def test_secrets_of_an_address_are_not_shown(tmp_path: Path) -> None:
    from ssmt_edge.sources.base import BaseSource

    with Viewer(port=0, folder=tmp_path) as viewer:
        stage = Stage(viewer, tmp_path)
        for name in ("rtsp://user:secret@10.0.0.7:554/live?key=secret", "/home/doe/Doe_John/cine.dcm"):
            viewer.sink(SinkContext(source=BaseSource(name)))
        with stage.page() as page:
            text = page.recv(timeout=5)
    names = [each["name"] for each in json.loads(text)["streams"]]
    assert names == ["stream 1", "rtsp://10.0.0.7:554/live", "cine.dcm"]


def test_closing_takes_no_time_while_pages_are_open(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with Viewer(port=0, folder=tmp_path) as viewer:
        stage = Stage(viewer, tmp_path)
        with stage.page() as page:
            next(statuses(page))
            started = time.perf_counter()
            viewer.close()
            assert time.perf_counter() - started < 3
            with pytest.raises(ConnectionClosed):
                while True:
                    page.recv(timeout=5)
        stage.write(1)  # a stream that ends later than its viewer
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "ssmt-viewer"]
