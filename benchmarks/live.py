"""A live probe for minutes: is every frame accounted for, does latency stay flat, does memory?

    python -m benchmarks.live ENGINE SOURCE [--minutes 10] [--fps 30] [--threads N] [--smooth]

`ssmt-edge simulate` plays the source as an OpenIGTLink probe in one process, `ssmt-edge run` watches it in another and
writes records; this process only reads what both say, and the memory of the second from /proc (Linux).
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.report.files import markdown_table
from ssmt_edge.errors import SourceError

COMMAND = (sys.executable, "-c", "from ssmt_edge.cli import main; main()")


def main(
    engine: Path,
    source: str,
    minutes: Annotated[float, typer.Option(min=0.1)] = 10.0,
    fps: Annotated[float, typer.Option(min=1)] = 30.0,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    smooth: Annotated[bool, typer.Option("--smooth")] = False,
) -> None:
    """Runs an engine on a simulated live probe and checks the books."""
    with tempfile.TemporaryDirectory() as folder:
        records, uri = Path(folder) / "records.jsonl", f"igtl://127.0.0.1:{_free_port()}"
        frames = round(minutes * 60 * fps)
        probe = _start("simulate", source, "--as", uri, "--fps", fps, "--frames", frames, "--wait", "--json")
        time.sleep(2)
        options = ["--smooth"] * smooth + (["--threads", threads] if threads else [])
        watch = _start("run", engine, uri, "--sink", records, "--json", *options)
        memory = _memory_until_end(watch, probe)
        sent = json.loads(_output(probe))
        summary = json.loads(_output(watch))
        lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    _report(engine, source, sent, summary, lines, memory)


def _start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _memory_until_end(watch: subprocess.Popen[str], probe: subprocess.Popen[str]) -> list[tuple[float, float]]:
    """Seconds since the start and resident MB of `watch`, until the probe has sent everything; then ends `watch`."""
    begun, found = time.monotonic(), []
    while probe.poll() is None and watch.poll() is None:
        found.append((time.monotonic() - begun, _resident_mb(watch.pid)))
        if len(found) % 60 == 0:
            print(f"{found[-1][0] / 60:.0f} min, {found[-1][1]:.0f} MB", file=sys.stderr)
        time.sleep(1)
    time.sleep(0.5)  # frames on their way
    watch.send_signal(signal.SIGINT)
    return found


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _output(process: subprocess.Popen[str]) -> str:
    try:
        out, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise SourceError("a process did not end within 60 s of the last frame") from None
    return out


def _report(
    engine: Path,
    source: str,
    sent: dict[str, Any],
    summary: dict[str, Any],
    lines: list[dict[str, Any]],
    memory: list[tuple[float, float]],
) -> None:
    numbered = sent["sent"] + sent["skipped"]
    dropped = sum(line["dropped_before"] for line in lines)
    late = np.array([line["latency_ms"] for line in lines])
    p50, p99 = np.percentile(late, (50, 99))
    after = [mb for second, mb in memory if second >= 60] or [memory[-1][1]]
    rows = [
        ("frames numbered by the probe", str(numbered)),
        ("of these not sent, because TCP was full", str(sent["skipped"])),
        ("recorded", str(len(lines))),
        ("counted as dropped", str(dropped)),
        ("recorded + dropped - numbered", str(len(lines) + dropped - numbered)),
        ("latency p50, ms", f"{p50:.2f}"),
        ("latency p99, ms", f"{p99:.2f}"),
        ("latency max, ms", f"{late.max():.2f}"),
        ("p99 / p50", f"{p99 / p50:.2f}"),
        ("resident memory after minute 1, MB", f"{after[0]:.1f}"),
        ("resident memory at the end, MB", f"{memory[-1][1]:.1f}"),
        ("largest after minute 1, MB", f"{max(after):.1f}"),
        ("end / minute 1", f"{memory[-1][1] / after[0]:.3f}"),
        ("written by the sink, p99 ms", f"{summary['streams'][0]['sinks'][0]['latency_ms']['p99']:.2f}"),
    ]
    print(f"{engine}, {source}, {summary['seconds'] / 60:.1f} min")
    print("\n".join(markdown_table(["", "value"], [list(row) for row in rows])))


if __name__ == "__main__":
    typer.run(main)
