"""What sinks leave on the disk."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pydicom
import pytest
from dicoms import write_header
from fakes import disc, make_result, record_indices, video_frames

from ssmt_edge.errors import SinkError
from ssmt_edge.files import temporary_sibling
from ssmt_edge.geometry import Roi
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext, leftovers, open_sink, sink_path
from ssmt_edge.sinks.base import GrowingFile
from ssmt_edge.sources import Source, open_source

KINDS = ["o.mp4", "o.mkv", "o.avi", "r.jsonl", "t.csv", "m/", "s.dcm", "p.html", "p.json"]


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """An opened DICOM cine of 400 frames of 160 x 120 without coordinate system, its pixels left out."""
    path = tmp_path_factory.mktemp("cine") / "cine.dcm"
    write_header(path, frames=400, rows=120, columns=160)
    return open_source(str(path))


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
        sink.write(replace(make_result(i, disc((121, 159), (40 + i, 60))), t_source_ms=i * 80.0))
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


@pytest.mark.parametrize("name", KINDS)
def test_nothing_written_leaves_nothing_behind_and_replaces_nothing(tmp_path: Path, cine: Source, name: str) -> None:
    context = SinkContext(source=cine)
    open_sink(f"{tmp_path}/{name}", context).close()
    assert list(tmp_path.iterdir()) == []
    if not name.endswith("/"):
        (tmp_path / name).write_text("earlier")
        open_sink(f"{tmp_path}/{name}", context).close()
        assert (tmp_path / name).read_text() == "earlier"


@pytest.mark.parametrize("name", KINDS)
def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path, cine: Source, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be written"):
        open_sink(f"{tmp_path}/file/{name}", SinkContext(source=cine))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("uri", ["o.webm", "out", "", "png:", "rtmp://x/y"])
def test_unknown_sinks_are_named(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SinkError, match=r"expected a file ending with \.mp4"):
        open_sink(uri)
    assert list(tmp_path.iterdir()) == []


def test_sink_path() -> None:
    assert sink_path("png:a/b") == sink_path("a/b/") == Path("a/b")
    assert sink_path("C:/x.mp4") == Path("C:/x.mp4")


def noisy(index: int) -> Result:
    """A frame that no codec makes small."""
    pixels = np.random.default_rng(index).integers(0, 90, (120, 160)).astype(np.uint8)
    cv2.circle(pixels, (60, 60), 20, 200, -1)
    return make_result(index, pixels)


def times(path: Path) -> list[float]:
    """When each frame of a film is shown, seconds."""
    with av.open(str(path)) as film:
        return [round(float(frame.time or 0), 3) for frame in film.decode(video=0)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_dropped_frames_do_not_speed_the_film_up(tmp_path: Path, suffix: str) -> None:
    sink = open_sink(f"{tmp_path}/o.{suffix}", SinkContext(fps=25))
    shown = [0, 1, 2, 30, 31, 60]
    for i in shown:
        sink.write(make_result(i, disc(centre=(40 + i, 60))))
    sink.close()
    if suffix != "avi":
        assert times(tmp_path / f"o.{suffix}") == pytest.approx([i / 25 for i in shown])
        return
    # a frame in every slot, new ones in their own
    frames = decoded(tmp_path / "o.avi")
    assert len(frames) == 61
    changes = [(np.abs(frames[i].astype(int) - frames[i - 1]) > 40).sum() for i in range(1, 61)]
    assert [i + 1 for i, pixels in enumerate(changes) if pixels > 60] == shown[1:]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_source_that_starts_over_or_stands_still_goes_on_in_the_film(tmp_path: Path, suffix: str) -> None:
    sink = open_sink(f"{tmp_path}/o.{suffix}", SinkContext(fps=25))
    for i, ms in enumerate([1e9, 1e9 + 40, 1e9 + 40, 1e9 + 30, 0, 40, 80, 1e8, 1e8 + 40]):
        sink.write(replace(make_result(i), t_source_ms=float(ms)))
    sink.close()
    told = times(tmp_path / f"o.{suffix}")
    assert len(told) == 9 and told == sorted(told)
    assert told[6] < 0.5 and told[8] - told[7] == pytest.approx(0.04, abs=1e-3)


def boxes(path: Path) -> list[str]:
    """The outermost parts of an MP4 file."""
    data, names = path.read_bytes(), []
    while data:
        names.append(data[4:8].decode("ascii"))
        data = data[int.from_bytes(data[:4], "big") :]
    return names


def test_a_key_frame_every_second_and_an_ordinary_mp4_at_the_end(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/o.mp4", SinkContext(fps=10))
    for i in range(50):
        sink.write(replace(make_result(i), t_source_ms=i * 100.0))
    sink.close()
    assert video_frames(tmp_path / "o.mp4") == 50
    with av.open(str(tmp_path / "o.mp4")) as film:
        keys = [float(packet.pts * packet.time_base) for packet in film.demux(video=0) if packet.is_keyframe]
    assert keys == pytest.approx([0, 1, 2, 3, 4])
    if int(av.__version__.split(".")[0]) >= 14:
        assert boxes(tmp_path / "o.mp4") == ["ftyp", "free", "mdat", "moov"]


def test_pictures_are_cut_to_the_region_unless_told_otherwise(tmp_path: Path) -> None:
    burned_in = replace(make_result(), roi=Roi(20, 30, 100, 60))
    for name, context in {"cut": SinkContext(), "uncut": SinkContext(uncut=True)}.items():
        sink = open_sink(f"{tmp_path}/{name}.mp4", context)
        sink.write(burned_in)
        sink.close()
    assert decoded(tmp_path / "cut.mp4")[0].shape == (60, 100, 3)
    assert decoded(tmp_path / "uncut.mp4")[0].shape == (120, 160, 3)


def test_the_table_says_what_the_records_say(tmp_path: Path) -> None:
    pixels = disc(size=(120, 320))
    cv2.circle(pixels, (240, 60), 11, 200, -1)
    two = replace(make_result(3, pixels), spacing_mm=(0.1, 0.1), dropped_before=4)
    two.nodules[:] = [replace(n, identity=i + 1, long_mm=n.long_px / 10) for i, n in enumerate(two.nodules)]
    results = [make_result(0), make_result(1, np.zeros((120, 160), np.uint8)), two]
    for name in ("t.csv", "r.jsonl"):
        sink = open_sink(f"{tmp_path}/{name}")
        for result in results:
            sink.write(result)
        sink.close()
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == ["0", "1", "3", "3"]
    assert [row["identity"] for row in rows] == ["", "", "1", "2"]
    left = iter(rows)
    for record in map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines()):
        for nodule in record["nodules"] or [{}]:
            row = next(left)
            for name in ("frame", "t_source_ms", "latency_ms", "dropped_before"):
                assert float(row[name]) == record[name]
            for name in (
                "identity",
                "area_px",
                "area_mm2",
                "long_mm",
                "short_mm",
                "long_px",
                "short_px",
                "probability",
            ):
                assert row[name] == ("" if nodule.get(name) is None else str(nodule[name]))
            box = [row[f"{name}_px"] for name in ("left", "top", "width", "height")]
            assert box == [str(v) for v in nodule.get("bbox", [""] * 4)]


def told(sink: Any, count: int) -> list[SinkError]:
    """What a sink says while results are written until it fails, and when it is closed then, twice."""
    errors = []
    try:
        for i in range(count):
            sink.write(noisy(i))
    except SinkError as error:
        errors.append(error)
    for _ in range(2):
        try:
            sink.close()
        except SinkError as error:
            errors.append(error)
    return errors


def say_once(errors: list[SinkError], reason: str) -> None:
    assert len(errors) == 1, errors
    assert re.fullmatch(rf"\S+ cannot be written: {reason}; choose another place", str(errors[0]))


@pytest.mark.parametrize("name", KINDS)
def test_a_full_disk(tmp_path: Path, cine: Source, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = open_sink(f"{tmp_path}/out/{name}", SinkContext(source=cine))
    place = tmp_path / "out" / name
    first = place / "mask_000000.png" if name == "m/" else place
    if isinstance(sink, GrowingFile):
        sink.close()
        link = tmp_path / "out" / f"full.part{place.suffix}"
        monkeypatch.setattr("ssmt_edge.sinks.base.unfinished", lambda path: link)
    else:
        link = temporary_sibling(first)
    link.symlink_to("/dev/full")
    if isinstance(sink, GrowingFile):
        sink = open_sink(f"{tmp_path}/out/{name}", SinkContext(source=cine))
    say_once(told(sink, 60), "No space left on device")
    assert [p for p in (tmp_path / "out").rglob("*") if not p.is_dir()] == []


@pytest.mark.parametrize(
    "name, limit, whole",
    [
        *(("o.mp4", 100_000, 0), ("o.mkv", 100_000, 0), ("o.avi", 100_000, 10)),
        *(("o.mp4", 350_000, 25), ("o.mkv", 350_000, 25), ("o.avi", 350_000, 25)),
        *(("r.jsonl", 9_000, 25), ("t.csv", 3_000, 25), ("s.dcm", 100_000, 25)),
        *(("s.dcm", 99_000, 0), ("m/", 100, 0), ("p.html", 2_000, 0), ("p.json", 1_000, 0)),
    ],
)
def test_a_file_that_may_not_grow_keeps_what_is_whole(
    tmp_path: Path, cine: Source, name: str, limit: int, whole: int
) -> None:
    sink = open_sink(f"{tmp_path}/{name}", SinkContext(fps=25, source=cine))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    errors: list[SinkError] = []
    try:
        if name == "s.dcm" and whole:  # needs room for the file itself when it is closed
            with pytest.raises(SinkError) as caught:
                for i in range(400):
                    sink.write(noisy(i))
            errors.append(caught.value)
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            sink.close()
        else:
            errors += told(sink, 41 if name == "s.dcm" else 400)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    say_once(errors, "File too large")
    path = tmp_path / name
    left = {
        "mp4": lambda: len(times(path)),
        "mkv": lambda: len(times(path)),
        "avi": lambda: len(times(path)),
        "jsonl": lambda: len(record_indices(path)),
        "csv": lambda: len(list(csv.DictReader(path.open()))),
        "dcm": lambda: len(pydicom.dcmread(path).pixel_array),
    }
    if whole:
        assert [p.name for p in tmp_path.iterdir()] == [name]
        assert left[name.rpartition(".")[2]]() >= whole
    else:
        assert [p for p in tmp_path.rglob("*") if not p.is_dir()] == []


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_that_vanishes(tmp_path: Path, cine: Source, name: str) -> None:
    folder = tmp_path / "out"
    sink = open_sink(f"{folder}/{name}", SinkContext(source=cine))
    sink.write(noisy(0))
    shutil.rmtree(folder)
    say_once(told(sink, 3), "its folder is gone")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [kind for kind in KINDS if kind != "m/"])
def test_a_folder_that_vanishes_before_the_end(tmp_path: Path, cine: Source, name: str) -> None:
    folder = tmp_path / "out"
    sink = open_sink(f"{folder}/{name}", SinkContext(source=cine))
    sink.write(noisy(0))
    shutil.rmtree(folder)
    say_once(told(sink, 0), "its folder is gone")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_sinks import noisy
from ssmt_edge.sinks import SinkContext, open_sink
names = ("a b.mp4", "o.mkv", "o.avi", "r.jsonl", "t.csv")
sinks = [open_sink(f"{sys.argv[1]}/{name}", SinkContext(fps=25)) for name in names]
for i in range(60):
    for sink in sinks:
        sink.write(noisy(i))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_readable_and_found(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)], capture_output=True, timeout=60
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    found = {}
    for name in ("a b.mp4", "o.mkv", "o.avi", "r.jsonl", "t.csv"):
        (found[name],) = leftovers(tmp_path / name)
    assert set(found.values()) == set(tmp_path.iterdir())
    for name, least in {"a b.mp4": 50, "o.mkv": 50, "o.avi": 59}.items():
        assert len(times(found[name])) >= least
        assert times(found[name])[49] == pytest.approx(49 / 25, abs=0.041)
    assert record_indices(found["r.jsonl"]) == list(range(60))
    with found["t.csv"].open(newline="") as file:
        assert [int(row["frame"]) for row in csv.DictReader(file)] == list(range(60))


def test_leftovers_are_neither_of_a_running_process_nor_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    stale = tmp_path / f".r.{os.getpid()}.part.jsonl"  # of an earlier process with this one's number
    stale.write_text("earlier")
    for name in (f".r.{os.getppid()}.part.jsonl", ".rr.1.part.jsonl", ".r.x.part.jsonl", ".r.999999999.part.csv"):
        (tmp_path / name).write_text("of somebody else")
    assert leftovers(path) == [stale]
    sink = open_sink(str(path))
    sink.write(make_result())
    sink.close()
    assert stale.read_text() == "earlier" and record_indices(path) == [0]
    masks = tmp_path / "m"
    masks.mkdir()
    (masks / ".mask_000001.999999999.part.png").write_text("")
    assert [p.name for p in leftovers(masks)] == [".mask_000001.999999999.part.png"]
    assert leftovers(tmp_path / "nowhere" / "r.jsonl") == []
