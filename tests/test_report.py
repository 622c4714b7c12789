"""The summary of a run: its facts, its page, and memory that does not grow."""

from __future__ import annotations

import base64
import json
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import BrightEngine, disc, make_result, write_folder

from ssmt_edge.geometry import Roi
from ssmt_edge.health import Health
from ssmt_edge.segment import Result, Segmenter
from ssmt_edge.sinks import SinkContext, open_sink
from ssmt_edge.sinks.summary import KEPT, POINTS, Curve, Summary
from ssmt_edge.sources import open_source


def numbered(index: int, radius: int, identity: int | None = 1, mm: float | None = 0.1) -> Result:
    """A frame with one nodule of a known size; radius 0 for none."""
    result = make_result(index, disc(radius=radius) if radius else np.full((120, 160), 40, np.uint8))
    nodules = [
        replace(
            n,
            identity=identity,
            long_mm=mm and n.long_px * mm,
            short_mm=mm and n.short_px * mm,
            area_mm2=mm and n.area_px * mm * mm,
        )
        for n in result.nodules
    ]
    return replace(result, nodules=nodules, spacing_mm=(mm, mm) if mm else None)


def reported(folder: Path, results: list[Result], context: SinkContext | None = None) -> tuple[dict[str, Any], str]:
    for name in ("r.json", "r.html"):
        sink = open_sink(f"{folder}/{name}", context)
        for result in results:
            sink.write(result)
        sink.close()
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith((".", "r."))) == ["r.html", "r.json"]
    return json.loads((folder / "r.json").read_text()), (folder / "r.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a browser would ask for, whether all is closed, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "iframe")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_facts_and_page_tell_the_same(tmp_path: Path) -> None:
    radii = [10, 12, 0, 25, 14, 0]
    results = [numbered(i, radius) for i, radius in enumerate(radii)]
    results[4] = replace(numbered(4, 30, identity=2), dropped_before=3)
    health = Health(captured=9, done=6, dropped=3, overruns=1)
    for ms in (1.0, 2.0, 30.0):
        health.latency.add(ms)
    with open_source(str(write_folder(tmp_path / "Doe_Jane" / "<b>cine", 1))) as source:
        context = SinkContext(25.0, source, Segmenter(BrightEngine()), health)
        facts, html = reported(tmp_path, results, context)
    assert facts["frames"] == 6 and facts["frames_with_nodule"] == 4
    assert facts["stream"] == {"captured": 9, "done": 6, "dropped": 3, "overruns": 1}
    assert facts["latency_ms"]["count"] == 3 and facts["latency_ms"]["max"] == 30
    second, first = facts["nodules"]
    assert (first["identity"], first["frames"], first["largest"]["frame"]) == (1, 3, 3)
    assert (first["first"]["frame"], first["last"]["frame"]) == (0, 3)
    assert second["largest"]["long_mm"] == pytest.approx(results[4].nodules[0].long_mm, abs=1e-3)
    assert [point[0] for point in first["curve"]["points"]] == [0, 40, 120]
    assert facts["note"] == "research use only" and facts["engine"]["model"] == "fake"
    page = Page(html)
    words = " ".join(page.words)
    for expected in ("Research use only", "<b>cine", "9 captured, 6 done, 3 dropped", "p99 30.0", "in frame"):
        assert expected in words
    assert f"{second['largest']['long_mm']:.1f} x {second['largest']['short_mm']:.1f}" in words
    assert "Jane" not in html and "Jane" not in json.dumps(facts)  # folders are called after patients
    (link,) = page.links
    assert link.startswith("data:image/png;base64,")
    assert not re.search(r"https?:|url\(|@import", html)
    (svg,) = re.findall(r"<svg.*?</svg>", html, re.S)
    assert ET.fromstring(svg).tag == "svg"


def test_the_picture_is_the_largest_frame_cut_to_its_region(tmp_path: Path) -> None:
    results = [numbered(0, 10), replace(numbered(1, 20), roi=Roi(40, 20, 80, 80)), numbered(2, 12)]
    shapes = {}
    for uncut in (False, True):
        _, html = reported(tmp_path, results, SinkContext(uncut=uncut))
        (encoded,) = re.findall(r"base64,([^\"]+)", html)
        image = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        shapes[uncut] = image.shape
        assert "frame 1" in html
    assert shapes == {False: (80, 80, 3), True: (120, 160, 3)}


@pytest.mark.parametrize("results", [[numbered(0, 0)], [numbered(0, 9, None, None)], [numbered(0, 9)] * 3], ids=str)
def test_short_and_empty_runs(tmp_path: Path, results: list[Result]) -> None:
    facts, html = reported(tmp_path, results)
    assert facts["frames"] == len(results)
    Page(html)
    assert ("No nodule was marked" in html) == (not results[0].nodules)
    assert "nan" not in html.lower().replace("nance", "") and "inf" not in re.sub(r"info?\w+", "", html.lower())


def test_nodules_of_a_few_frames_are_folded_away(tmp_path: Path) -> None:
    flash = [numbered(i, 25, identity=1, mm=0.0712345678) for i in range(2)]
    steady = [numbered(i, 20, identity=2, mm=0.0712345678) for i in range(2, 8)]
    more = [numbered(i, 10, identity=i, mm=0.0712345678) for i in range(8, 11)]
    facts, html = reported(tmp_path, flash + steady + more)
    assert len(facts["nodules"]) == 5 and facts["spacing_mm"] == [0.071235] * 2
    Page(html)
    (folded,) = re.findall("<details>.*?</details>", html, re.S)
    assert "3 more, seen in fewer than 5 frames" in folded and folded.count("<tr><td>") == 3
    assert html.count("<tr><td>") == 5, "the steady one, and the largest, whose picture is shown, are listed"
    assert html.count("<polyline") == 2 and "<circle" not in html
    assert "<details>" not in reported(tmp_path, steady)[1]


def test_mm_come_before_px_and_a_mixed_curve_is_in_px(tmp_path: Path) -> None:
    facts, html = reported(tmp_path, [numbered(0, 30, mm=None), numbered(1, 10)])
    (nodule,) = facts["nodules"]
    assert nodule["largest"]["frame"] == 1 and nodule["largest"]["long_mm"] is not None
    assert "px, by the time of the source" in html


def test_user_and_password_of_a_camera_stay_out(tmp_path: Path) -> None:
    source: Any = type(
        "Camera", (), {"name": "rtsp://user:secret@10.0.0.7/stream?token=abc", "live": True, "fps": None}
    )
    facts, html = reported(tmp_path, [numbered(0, 9)], SinkContext(source=source))
    assert facts["source"]["name"] == "rtsp://10.0.0.7/stream"
    assert "secret" not in html and "abc" not in html


def test_hours_of_nodules_fit_into_fixed_memory() -> None:
    base = numbered(0, 9)
    (nodule,) = base.nodules
    summary = Summary()
    for i in range(20_000):
        long = 5 + (i % 500) / 100
        both = [replace(nodule, identity=1, long_mm=20.0), replace(nodule, identity=2 + i // 10, long_mm=long)]
        summary.add(replace(base, frame=i, t_source_ms=i * 1000.0, nodules=both))
    seen = summary.nodules()
    assert len(seen) == KEPT and seen[0].identity == 1 and seen[0].frames == 20_000
    assert all(one.largest is not None and one.largest.long_mm is not None for one in seen)
    assert min(one.largest.long_mm for one in seen if one.largest and one.largest.long_mm) > 9
    assert summary.forgotten == 2001 - KEPT
    assert all(one.frames == 10 for one in seen[1:])
    points = list(seen[0].curve.points())
    assert POINTS // 4 < len(points) <= POINTS
    assert points[-1][0] == pytest.approx(19_999e3, rel=0.01)
    assert sum(sys.getsizeof(one.curve._spans) for one in seen) < 5e6


def test_a_curve_keeps_its_peaks() -> None:
    curve = Curve()
    for i in range(50_000):
        curve.add(i * 33.0, 100.0 if i == 31_234 else 1.0 + i % 7 / 10, None)
    points = list(curve.points())
    (peak,) = [t for t, px, _ in points if px == 100]
    assert abs(peak - 31_234 * 33) <= curve.span_ms and len(points) <= POINTS
