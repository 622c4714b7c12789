"""`ssmt-edge demo` with the shipped weights, where torch cannot be imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import WITHOUT_TORCH, Answer, in_subprocess
from fakes import video_frames

from ssmt_edge import weights

pytest.importorskip("onnx")

absent = [path.name for path in (weights.ONNX, weights.CALIBRATION) if not path.is_file()]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(absent), reason=f"no shipped weights: {', '.join(absent)}"),
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    out = tmp_path_factory.mktemp("demo") / "out"
    answer = in_subprocess("demo", "--out", out, "--frames", "20", before=WITHOUT_TORCH)
    assert answer.code == 0, answer.err
    return out, answer


def test_everything_is_there(demo: tuple[Path, Answer]) -> None:
    out, _ = demo
    assert {"engine", "overlay.mp4", "records.jsonl", "report.html", "report.json"} <= {p.name for p in out.iterdir()}
    assert not [p for p in out.rglob("*") if ".part" in p.name]
    assert video_frames(out / "overlay.mp4") == 30
    assert json.loads((out / "engine/engine.json").read_text())["precision"] == "int8"
    assert json.loads((out / "report.json").read_text())["engines"]
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")


def test_records_have_their_fields(demo: tuple[Path, Answer]) -> None:
    records = [json.loads(line) for line in (demo[0] / "records.jsonl").read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(30))
    fields = {"frame", "t_source_ms", "latency_ms", "stages_ms", "dropped_before", "nodules"}
    nodule = {"area_px", "area_mm2", "long_mm", "short_mm", "bbox", "probability"}
    assert all(fields <= set(record) for record in records)
    assert all(nodule <= set(found) for record in records for found in record["nodules"])


def test_it_says_that_the_cine_is_no_thyroid(demo: tuple[Path, Answer]) -> None:
    answer = demo[1]
    text = " ".join((answer.out + answer.err).split())
    assert "not a thyroid" in text and "mean nothing clinically" in text
    for name in ("overlay.mp4", "records.jsonl", "report.html"):
        assert name in text
