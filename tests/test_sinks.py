"""What sinks leave on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from fakes import disc, make_result

from ssmt_edge.errors import SinkError
from ssmt_edge.overlay import draw, fit
from ssmt_edge.sinks import SinkContext, open_sink, sink_path


def decoded(path: Path) -> list[Any]:
    capture = cv2.VideoCapture(str(path))
    frames: list[Any] = []
    while True:
        there, frame = capture.read()
        if not there:
            return frames
        frames.append(frame)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_video_has_every_frame_at_the_right_rate(tmp_path: Path, suffix: str, count: int) -> None:
    path = tmp_path / "new" / f"overlay.{suffix}"
    sink = open_sink(str(path), SinkContext(fps=12.5))
    for i in range(count):
        sink.write(make_result(i, disc((121, 159), (40 + i, 60))))
    assert not path.exists()
    sink.close()
    frames = decoded(path)
    assert len(frames) == count
    assert frames[0].shape == (122, 160, 3)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_video_without_h264(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    sink = open_sink(str(tmp_path / "o.mp4"), SinkContext(fps=30000 / 1001))
    for i in range(10):
        sink.write(make_result(i))
    sink.close()
    assert len(decoded(tmp_path / "o.mp4")) == 10
    with av.open(str(tmp_path / "o.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "mpeg4"


@pytest.mark.parametrize("fps", [None, 0.1, 19.038461538, 1000.0])
def test_any_rate_can_be_written(tmp_path: Path, fps: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for codecs in (av.codecs_available, {"mpeg4"}):
        monkeypatch.setattr(av, "codecs_available", codecs)
        sink = open_sink(str(tmp_path / "o.mp4"), SinkContext(fps=fps))
        for i in range(3):
            sink.write(make_result(i))
        sink.close()
        assert len(decoded(tmp_path / "o.mp4")) == 3


def test_video_letterboxes_other_sizes(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "o.mp4"))
    white = np.full((100, 100), 255, np.uint8)
    for i, pixels in enumerate([np.full((100, 200), 255, np.uint8), white, np.stack([white] * 3, 2), white[:, :1]]):
        sink.write(make_result(i, pixels))
    sink.close()
    frames = decoded(tmp_path / "o.mp4")
    assert [f.shape for f in frames] == [(100, 200, 3)] * 4
    assert frames[1][:80, :40].mean() < 10 and frames[1][:80, 60:140].mean() > 100


def test_overlay_shows_mask_and_diameters_and_leaves_the_frame_alone() -> None:
    result = make_result()
    image = draw(result)
    assert (result.pixels == disc()).all()
    inside, outside = image[60 + 7, 80 + 8], image[5, 5]
    assert inside[0] > inside[2] and outside.tolist() == [40, 40, 40]
    ((x0, y0), (x1, y1)) = result.nodules[0].long_line
    x, y = round(0.7 * x0 + 0.3 * x1), round(0.7 * y0 + 0.3 * y1)
    assert image[y, x, 2] > image[y, x, 0]


def test_fit_pads_odd_sizes_without_scaling() -> None:
    image = np.random.default_rng(0).integers(0, 255, (31, 33, 3)).astype(np.uint8)
    padded = fit(image, 34, 32)
    assert (padded[:31, :33] == image).all() and not padded[31].any() and not padded[:, 33].any()


def test_records_are_one_json_line_a_frame(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "a" / "r.jsonl"))
    for i in range(5):
        sink.write(make_result(i))
    sink.close()
    lines = [json.loads(line) for line in (tmp_path / "a" / "r.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(5))
    assert lines[0] == json.loads(json.dumps(make_result(0).record()))


@pytest.mark.parametrize("form", ["png:{}", "{}/", "{}"])
def test_masks_are_named_by_frame_and_never_touch_others(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "m"
    if form == "{}":
        folder.mkdir()
    folder.mkdir(exist_ok=True)
    (folder / "notes.png").write_bytes(b"of somebody else")
    sink = open_sink(form.format(folder))
    result = make_result(1, disc(radius=10))
    sink.write(result)
    sink.close()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert sorted(before) == ["mask_000001.png", "notes.png"]
    with pytest.raises(SinkError, match="holds masks already"):
        open_sink(form.format(folder))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    mask = cv2.imread(str(folder / "mask_000001.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None and mask.dtype == np.uint8
    assert (mask == np.where(result.mask, 255, 0)).all()


@pytest.mark.parametrize("name", ["o.mp4", "r.jsonl", "m/"])
def test_nothing_written_leaves_nothing_behind_and_replaces_nothing(tmp_path: Path, name: str) -> None:
    open_sink(str(tmp_path / name) + "/" * name.endswith("/")).close()
    assert list(tmp_path.iterdir()) == []
    if not name.endswith("/"):
        (tmp_path / name).write_text("earlier")
        open_sink(str(tmp_path / name)).close()
        assert (tmp_path / name).read_text() == "earlier"


@pytest.mark.parametrize("name", ["o.mp4", "o.avi", "r.jsonl", "m/"])
def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be written"):
        open_sink(f"{tmp_path}/file/{name}")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("uri", ["o.webm", "out", "", "png:", "rtmp://x/y"])
def test_unknown_sinks_are_named(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SinkError, match=r"expected a file ending with \.mp4"):
        open_sink(uri)
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    sink: Any = open_sink(str(tmp_path / "r.jsonl"))
    sink.write(make_result(0))
    sink._file.write(b'{"half a li')  # what a full disk leaves
    sink.close()
    assert [json.loads(x)["frame"] for x in (tmp_path / "r.jsonl").read_text().splitlines()] == [0]


def test_sink_path() -> None:
    assert sink_path("png:a/b") == sink_path("a/b/") == Path("a/b")
    assert sink_path("C:/x.mp4") == Path("C:/x.mp4")
