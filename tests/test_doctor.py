"""What `ssmt-edge doctor` says of sources and simulated probes, and how it prints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ssmt_edge.cli import doctor
from ssmt_edge.errors import MissingDependency
from ssmt_edge.simulate import rtsp, rtsp_server
from ssmt_edge.sources import csi

pytestmark = pytest.mark.timeout(60)


def test_sources_that_work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor._sources()
    assert {"rtsp, http", "v4l2", "csi", "igtl", "dicom"} <= set(found)
    assert (found["igtl"]["found"] is None) == ("ssmt-edge[igtl]" in (found["igtl"]["problem"] or ""))
    assert found["rtsp, http"]["found"].startswith("FFmpeg in PyAV") and "RLE, JPEG" in found["dicom"]["found"]
    monkeypatch.setattr(csi, "has_element", lambda name: name == "nvarguscamerasrc")
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/gst-launch-1.0")
    assert doctor._sources()["csi"] == {"found": "nvarguscamerasrc", "problem": None}
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "gstreamer1.0-tools" in doctor._sources()["csi"]["problem"]


def test_the_doctor_tells_whether_a_camera_can_be_simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def told(exit_code: int) -> Any:
        python = tmp_path / "python3"
        python.write_text(f"#!/bin/sh\nexit {exit_code}\n")
        python.chmod(0o755)
        monkeypatch.setattr(rtsp, "_pythons", lambda: [str(python)])
        return doctor.examine()["probes"]["rtsp"]

    assert told(0) == {"found": f"GStreamer's RTSP server in {tmp_path / 'python3'}", "problem": None}
    assert (
        told(rtsp_server.MISSING)["found"] is None and "apt install python3-gi" in told(rtsp_server.MISSING)["problem"]
    )
    with pytest.raises(MissingDependency, match="apt install python3-gi"):
        rtsp.RtspProbe("rtsp://:0", 25.0)


def test_commands_in_the_doctors_advice_are_not_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = doctor.examine()
    for package in found["extras"]:
        package["problem"] = f"pip install 'ssmt-edge[{package['extra']}]'"
    monkeypatch.setenv("COLUMNS", "80")
    doctor._print_table(found)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) == 80
    for package in found["extras"]:
        assert any(f"'ssmt-edge[{package['extra']}]'" in line for line in lines)
    for package in found["base"]:
        assert any(line.startswith(f"{package['name']} ") for line in lines)
