"""Cameras and HDMI bridges on a CSI connector, through a pipe from GStreamer's `gst-launch-1.0`: csi://0.

Not through OpenCV: the one from pip has no GStreamer, and the one of a Jetson's system must not be shadowed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, cast
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import SourceError, SourceLost, UsageError
from ssmt_edge.sources.live import Live
from ssmt_edge.sources.receiver import Receiver

LAUNCH = "gst-launch-1.0"


@dataclass(frozen=True)
class Camera:
    """What a `csi://` URI asks for."""

    sensor: int
    width: int = 1280
    height: int = 720
    fps: int = 30


def open_uri(uri: str) -> Live:
    """`csi://0?size=1280x720&fps=30` as a live source, opened again when it is gone; RGB frames.

    Raises:
        SourceError: no GStreamer, no element for such cameras, or no camera.
        UsageError: options that do not exist or cannot be.
    """
    camera = parse(uri)
    return Live(uri, lambda: GstReceiver(uri, source_element(camera), camera))


def parse(uri: str) -> Camera:
    """Raises UsageError."""
    sensor, _, query = uri.removeprefix("csi://").partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := options.keys() - {"size", "fps"}:
        raise UsageError(f"{uri}: no option {sorted(unknown)[0]!r}; expected size and fps")
    size = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", options.get("size", f"{Camera.width}x{Camera.height}"))
    fps = re.fullmatch(r"[1-9]\d*", options.get("fps", str(Camera.fps)))
    if not re.fullmatch(r"\d+", sensor) or not size or not fps:
        raise UsageError(f"{uri}, expected csi://NUMBER?size=WIDTHxHEIGHT&fps=FRAMES_A_SECOND, e.g. csi://0?fps=30")
    return Camera(int(sensor), int(size[1]), int(size[2]), int(fps[0]))


def source_element(camera: Camera) -> str:
    """The first part of the pipeline on this machine: NVIDIA's on a Jetson, libcamera's elsewhere.

    Raises SourceError if there is neither.
    """
    if shutil.which(LAUNCH) is None:
        raise SourceError(f"csi:// needs {LAUNCH}, which is not installed: apt install gstreamer1.0-tools")
    if has_element("nvarguscamerasrc"):
        # from the camera's own memory to the CPU's
        return f"nvarguscamerasrc sensor-id={camera.sensor} ! video/x-raw(memory:NVMM){_caps(camera)} ! nvvidconv"
    if has_element("libcamerasrc"):
        if camera.sensor:
            raise SourceError(f"csi://{camera.sensor}: libcamera opens its first camera only; give csi://0")
        return f"libcamerasrc ! video/x-raw{_caps(camera)}"
    raise SourceError(
        "csi:// needs nvarguscamerasrc, which is part of JetPack, or libcamerasrc: apt install gstreamer1.0-libcamera"
    )


def has_element(name: str) -> bool:
    """Whether GStreamer's registry on this machine has an element."""
    try:
        return subprocess.run(["gst-inspect-1.0", "--exists", name], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def pipeline(source: str, camera: Camera, fd: int) -> str:
    """What `gst-launch-1.0` runs: `source` (elements, up to where frames have the camera's size) as RGB into a pipe."""
    return (
        f"{source} ! videoconvert ! video/x-raw,format=RGB,width={camera.width},height={camera.height} "
        f"! fdsink fd={fd} sync=false"
    )


def _caps(camera: Camera) -> str:
    return f",width={camera.width},height={camera.height},framerate={camera.fps}/1"


class GstReceiver(Receiver[bytes]):
    """Raw frames of one GStreamer process, which is killed when the source is closed."""

    def __init__(self, name: str, source: str, camera: Camera) -> None:
        """Args: source: see `pipeline`. Raises SourceError if no frame comes."""
        super().__init__(name)
        self.fps = float(camera.fps)
        self._source, self._camera = source, camera
        self._stride = -(-camera.width * 3 // 4) * 4  # GStreamer begins every row at a multiple of four bytes
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def receive(self, opened: Callable[[], None]) -> Iterator[tuple[float, bytes]]:
        # a pipe of its own: NVIDIA's element prints to stdout
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", buffering=0) as frames, tempfile.TemporaryFile() as said:
            command = [LAUNCH, "-q", *pipeline(self._source, self._camera, writing).split()]
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    pass_fds=[writing],
                    start_new_session=True,  # Ctrl-C is for us to handle
                )
            except OSError as error:
                raise SourceError(f"{self.name}: {LAUNCH} cannot be run: {error.strerror}") from None
            finally:
                os.close(writing)
            self._process = process
            try:
                size = self._stride * self._camera.height
                arrived = False
                while len(raw := _read(frames, size)) == size:
                    if not arrived:
                        opened()
                        arrived = True
                    yield time.perf_counter(), raw
            finally:
                process.kill()
                process.wait()
            kind = SourceLost if arrived else SourceError
            raise kind(f"{self.name}: GStreamer ended{_last_line(said)}")

    def pixels(self, raw: bytes) -> NDArray[np.uint8]:
        rows = np.frombuffer(raw, np.uint8).reshape(self._camera.height, self._stride)
        width = self._camera.width
        return np.ascontiguousarray(rows[:, : width * 3]).reshape(self._camera.height, width, 3)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
        super().close()


def _read(pipe: IO[bytes], size: int) -> bytes:
    """`size` bytes; fewer at the end of the pipe."""
    buffer = bytearray(size)
    view, done = memoryview(buffer), 0
    while done < size and (count := cast("int", pipe.readinto(view[done:]))):  # type: ignore[attr-defined]
        done += count
    return bytes(view[:done])


def _last_line(said: IO[bytes]) -> str:
    """What the process complained about: its first line with ERROR, else its last one."""
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    line = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "")
    return f": {line}" if line else ""
