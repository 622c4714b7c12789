"""RTSP server of the simulated probe, for the Python that has GStreamer's bindings: imports nothing of ssmt-edge.

    python rtsp_server.py HOST PORT PATH
    python rtsp_server.py                   only says by the exit code whether it could run

stdin: one line `WIDTH HEIGHT FPS`, then frames of 4 bytes a pixel (R, G, B, any); its end ends the server.
stdout: `listening PORT` or `error WHY`, then `clients N` whenever that changes.
Exit code MISSING: no bindings, or a plugin is not installed.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

MISSING = 7
# 4:2:0 is what every decoder takes
H264 = (
    "video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=superfast pass=quant quantizer=18 "
    "key-int-max={fps:.0f} ! rtph264pay name=pay0 pt=96 config-interval=1"
)
# the whole range of values, as all readers of JPEG expect
JPEG = "video/x-raw,format=I420,colorimetry=(string)1:4:0:0 ! jpegenc quality=95 ! rtpjpegpay name=pay0 pt=26"
FRAMES = (
    "( appsrc name=frames is-live=true do-timestamp=true format=time "
    "caps=video/x-raw,format=RGBx,width={width},height={height},framerate=0/1 "
    "! queue leaky=downstream max-size-buffers=2 ! videoconvert ! {encoder} )"
)


def main(host: str = "", port: str = "", path: str = "") -> int:
    try:
        import gi  # type: ignore[import-not-found]

        gi.require_version("Gst", "1.0")
        gi.require_version("GstRtspServer", "1.0")
        from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found]
    except (ImportError, ValueError):
        return MISSING
    Gst.init(None)
    encoder = H264 if Gst.ElementFactory.find("x264enc") else JPEG
    wanted = ("appsrc", "videoconvert", "rtph264pay") if encoder is H264 else ("appsrc", "jpegenc", "rtpjpegpay")
    if not all(Gst.ElementFactory.find(name) for name in wanted):
        return MISSING
    if not host:
        return 0

    server = GstRtspServer.RTSPServer()
    server.set_address(host)
    server.set_service(port)
    if not server.attach(None):
        say("error nothing can listen there, is the port in use?")
        return 1
    say(f"listening {server.get_bound_port()}")
    loop = GLib.MainLoop()
    playing: list[Any] = []  # the appsrc of the medium that all clients share, while there is one

    def configured(_factory: Any, media: Any) -> None:
        playing[:] = [media.get_element().get_by_name("frames")]
        media.connect("unprepared", unprepared)
        say("clients 1")

    def unprepared(_media: Any) -> None:
        playing.clear()
        say("clients 0")

    def read() -> None:
        try:
            width, height, fps = sys.stdin.buffer.readline().split()
            factory = GstRtspServer.RTSPMediaFactory()
            coder = encoder.format(fps=max(1.0, float(fps)))
            factory.set_launch(FRAMES.format(width=int(width), height=int(height), encoder=coder))
            factory.set_shared(True)
            factory.connect("media-configure", configured)
            server.get_mount_points().add_factory(path, factory)
            size = int(width) * int(height) * 4
            while len(data := sys.stdin.buffer.read(size)) == size:
                for source in list(playing):
                    source.emit("push-buffer", Gst.Buffer.new_wrapped(data))
        except ValueError:  # stdin ended before the first line
            pass
        finally:
            loop.quit()

    threading.Thread(target=read, daemon=True).start()
    loop.run()
    return 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    # at once: while Python takes itself down GStreamer's threads may still call into it, and the process crashes
    os._exit(main(*sys.argv[1:]))
