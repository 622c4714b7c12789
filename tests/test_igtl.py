"""OpenIGTLink in and out. What is sent is read by pyigtl's own client, and what pyigtl packs is read by our source."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from fakes import wait_until
from numpy.typing import NDArray

from ssmt_edge.errors import DataError, SinkError, SourceError, SourceLost
from ssmt_edge.geometry import Roi
from ssmt_edge.network.crc64 import crc64, joined
from ssmt_edge.network.openigtlink import HEADER, pack_image, pack_message
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext, open_sink
from ssmt_edge.sources import Frame, open_source
from ssmt_edge.sources.igtl import Clock, IgtlConnection, Numbering, Sender

pyigtl = pytest.importorskip("pyigtl")
pytestmark = pytest.mark.timeout(60)

RNG = np.random.default_rng(11)
GRAY = [RNG.integers(0, 256, (30, 40), dtype=np.uint8) for _ in range(4)]
COLOUR = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
SPACING = np.diag([0.25, 0.5, 1, 1])


def packed(pixels: NDArray[Any], number: int | None = None, matrix: Any = SPACING, **more: Any) -> bytes:
    """An IMAGE message, packed by pyigtl."""
    options = {"device_name": "Image", "timestamp": 1000.0, **more}
    message = pyigtl.ImageMessage(pixels[None] if pixels.ndim != 2 else pixels[None, ..., None], matrix, **options)
    if number is not None:
        message.header_version = 2
        message.metadata = {"FrameNumber": str(number)}
    return bytes(message.pack())


def changed(message: bytes, field: int, value: Any) -> bytes:
    """A message with another value in its header: 0 version, 1 type, 5 size, 6 checksum."""
    values = list(HEADER.unpack(message[: HEADER.size]))
    values[field] = value
    return HEADER.pack(*values) + message[HEADER.size :]


def summed(message: bytes) -> bytes:
    """A message with the checksum that its body has."""
    return changed(message, 6, crc64(message[HEADER.size :]))


@contextmanager
def sender(*connections: Sequence[bytes], hang_up: bool = True) -> Iterator[str]:
    """Address of a server that sends one list of messages a connection; `hang_up`: it ends the last one, too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ends: list[socket.socket] = []

        def serve() -> None:
            for messages in connections:
                client, _ = server.accept()
                with suppress(OSError):  # the other side has hung up already
                    for message in messages:
                        client.sendall(message)
                    if hang_up or messages is not connections[-1]:
                        client.shutdown(socket.SHUT_WR)
                ends.append(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"igtl://127.0.0.1:{server.getsockname()[1]}"
        for end in ends:
            end.close()


def connection(address: str, device: str | None = None) -> IgtlConnection:
    host, port = address.removeprefix("igtl://").split(":")
    return IgtlConnection(Sender(address, host, int(port), device, device is not None))


def read(*messages: bytes, device: str | None = None) -> tuple[list[Frame], IgtlConnection]:
    """Frames that arrive until the sender hangs up."""
    frames = []
    with sender(messages) as address, connection(address, device) as source:
        with pytest.raises(SourceLost, match="gone"):
            for frame in source:
                frames.append(frame)
    return frames, source


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 4097, 30072])
def test_the_checksum_is_pyigtls(length: int) -> None:
    data = RNG.bytes(length)
    assert crc64(data) == pyigtl.messages.CRC64(data)
    cut = length // 3
    assert joined(crc64(data[:cut]), crc64(data[cut:]), length - cut) == crc64(data)


def test_images_that_pyigtl_packs() -> None:
    transform = pyigtl.TransformMessage(np.eye(4), device_name="Probe").pack()
    stamps = [1000.0, 1000.04, 1000.05]
    frames, source = read(
        packed(GRAY[0], timestamp=stamps[0]),
        bytes(transform),
        packed(COLOUR, timestamp=stamps[1]),
        changed(b"x" * HEADER.size, 1, b"STT_IMAGE")[: HEADER.size - 16] + bytes(16),  # type without content
        packed(GRAY[1], timestamp=stamps[2]),
    )
    assert [frame.index for frame in frames] == [0, 1, 2]
    for frame, pixels, stamp in zip(frames, (GRAY[0], COLOUR, GRAY[1]), stamps, strict=True):
        assert np.array_equal(frame.pixels, pixels)
        assert frame.spacing_mm == (0.25, 0.5)
        assert frame.t_source_ms == pytest.approx((stamp - 1000) * 1e3, abs=0.01)
    assert not source.counts and not source.notes


def body_byte(message: bytes, place: int, value: int) -> bytes:
    changed_body = bytearray(message)
    changed_body[HEADER.size + place] = value
    return bytes(changed_body)


def big(message: bytes) -> bytes:
    """An image that declares a row more than it brings, with the right checksum."""
    return summed(body_byte(body_byte(message, 9, 31), 69, 31))


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "checksum": lambda message: changed(message, 6, 12345),
    "pixel": lambda message: body_byte(message, 500, message[HEADER.size + 500] ^ 1),
    "version": lambda message: changed(message, 0, 9),
    "size of the image": big,
    "type of the pixels": lambda message: summed(body_byte(message, 3, 99)),
    "empty": lambda message: changed(message[: HEADER.size], 5, 0),
    "no extended header": lambda message: summed(changed(message, 0, 2)),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_message_leaves_a_gap_and_a_note(what: str) -> None:
    frames, source = read(packed(GRAY[0]), DAMAGED[what](packed(GRAY[1])), packed(GRAY[2]))
    assert [frame.index for frame in frames] == [0, 2]
    assert np.array_equal(frames[1].pixels, GRAY[2])
    assert dict(source.counts) == {"damaged images left out": 1}


def test_numbers_of_the_sender_make_the_index() -> None:
    numbered = [packed(GRAY[0], n) for n in (70, 71, 74, 75, 77)]
    numbered[3] = DAMAGED["checksum"](numbered[3])
    frames, _ = read(*numbered)
    assert [frame.index for frame in frames] == [0, 1, 4, 7]


def test_numbers_that_begin_anew_or_leap_make_no_gap() -> None:
    numbering = Numbering()
    came = [5, 6, 0, 1, None, 8, 9, 2**60, 2**60 + 2]
    assert [numbering.index(number, 0) for number in came] == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    assert numbering.index(None, 3) == 13


def test_time_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = iter([0.0, 0.1, 0.3, 0.4, 0.6, 0.7])
    monkeypatch.setattr(time, "perf_counter", lambda: next(arrivals))
    clock = Clock()
    # it runs, is set back, stands still, and is set a day ahead
    times = [clock.t_ms(stamp) for stamp in (50.0, 50.04, 20.0, 20.0, 86420.0, 86420.05)]
    assert times == pytest.approx([0, 40, 240, 340, 540, 590])


@pytest.mark.parametrize("scale", [(np.nan, 0.1), (0.1, np.inf), (0.0, 0.1), (1.0, 1.0)])
def test_a_spacing_that_makes_no_sense_is_unknown(scale: tuple[float, float]) -> None:
    matrix = np.diag([*scale, 1, 1]).astype(np.float32)
    matrix[np.isnan(matrix)] = np.nan
    content = pack_image(GRAY[0], scale)
    message = b"".join(pack_message(content, "Image", 1000.0, 0, {}))
    frames, source = read(message, packed(GRAY[1]))
    assert [frame.spacing_mm for frame in frames] == [None, (0.25, 0.5)]
    assert not source.counts


@pytest.mark.parametrize("pixels", [GRAY[0].astype(np.float32), np.stack([GRAY[0]] * 2, -1)])
def test_kinds_of_images_that_are_refused(pixels: NDArray[Any]) -> None:
    with sender([packed(pixels)]) as address, connection(address) as source:
        with pytest.raises(DataError, match=r"sends images of 40 x 30 x 1 .*, expected uint8, one slice"):
            next(iter(source))
    frames, _ = read(packed(GRAY[0]), packed(pixels), packed(GRAY[1]))
    assert [frame.index for frame in frames] == [0, 2]


def test_volumes_are_refused() -> None:
    volume = bytes(pyigtl.ImageMessage(np.zeros((3, 8, 9, 1), np.uint8), device_name="Image").pack())
    with sender([volume]) as address, open_source(address) as source:
        with pytest.raises(DataError, match="sends images of 9 x 8 x 3"):
            next(iter(source))


def test_one_device_is_read() -> None:
    messages = [packed(GRAY[0]), packed(GRAY[1], device_name="Mask"), packed(GRAY[2])]
    frames, source = read(*messages)
    assert [frame.index for frame in frames] == [0, 1]
    assert np.array_equal(frames[1].pixels, GRAY[2])
    assert list(source.counts.values()) == [1] and "?device=NAME" in next(iter(source.counts))
    frames, source = read(*messages, device="Mask")
    assert len(frames) == 1 and np.array_equal(frames[0].pixels, GRAY[1])
    assert not source.counts


def test_who_waits_for_a_device_hears_what_the_server_sends() -> None:
    pose = bytes(pyigtl.TransformMessage(np.eye(4), device_name="Probe").pack())
    messages = [packed(GRAY[0]), pose, packed(GRAY[1]), packed(GRAY[1], device_name="Mask")]
    with sender(messages, hang_up=False) as address, open_source(f"{address}?device=Foo") as source:
        assert source.waiting == "it is connected, but the server sends nothing"
        thread = threading.Thread(target=lambda: list(source), daemon=True)
        thread.start()
        wait_until(lambda: source.waiting.endswith("Mask"))
        assert source.waiting == "this server sends Image, Probe (TRANSFORM), Mask"
    thread.join(5)
    assert not thread.is_alive()


def test_who_waits_for_an_image_hears_that_it_is_of_another_kind() -> None:
    volume = bytes(pyigtl.ImageMessage(np.zeros((3, 8, 9, 1), np.uint8), device_name="Image").pack())
    with sender([packed(GRAY[0]), volume, packed(GRAY[1]), volume], hang_up=False) as address:
        with open_source(address) as source:
            frames = iter(source)
            assert [next(frames).index, next(frames).index] == [0, 2]
            assert source.waiting.endswith("sends nothing")  # a frame came: what was before is forgotten
            thread = threading.Thread(target=lambda: list(frames), daemon=True)
            thread.start()
            wait_until(lambda: "images of 9 x 8 x 3 uint8" in source.waiting)
        thread.join(5)


BROKEN = {
    "absurd size": changed(packed(GRAY[0]), 5, 1 << 40),
    "no OpenIGTLink": b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html></html>",
    "cut short": packed(GRAY[0])[:700],
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_framing_makes_a_new_connection(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmt_edge.sources.live.FIRST_PAUSE_S", 0.05)
    states: list[str] = []
    with sender([packed(GRAY[0], 10), BROKEN[what]], [packed(GRAY[1], 14)], hang_up=False) as address:
        with open_source(address) as source:
            source.on_state = states.append
            frames = iter(source)
            got = [next(frames), next(frames)]
    assert [frame.index for frame in got] == [0, 4]
    assert np.array_equal(got[1].pixels, GRAY[1])
    assert got[1].t_source_ms >= got[0].t_source_ms
    assert states == ["lost", "running"]


def test_close_ends_a_waiting_iteration() -> None:
    with sender([packed(GRAY[0])], hang_up=False) as address:
        source = open_source(address)
        frames: list[Frame] = []
        thread = threading.Thread(target=lambda: frames.extend(source))
        thread.start()
        time.sleep(0.2)
        start = time.perf_counter()
        source.close()
        thread.join(5)
    assert time.perf_counter() - start < 1 and len(frames) == 1


@pytest.mark.parametrize("uri", ["igtl://127.0.0.1:1", "igtl://:99999", "igtl://:x", "igtl://:18944?size=3"])
def test_addresses_that_cannot_be(uri: str) -> None:
    with pytest.raises(SourceError, match=uri.replace("?", r"\?")):
        open_source(uri)


def result(number: int, spacing: tuple[float, float] | None = (0.25, 0.5)) -> Result:
    mask = np.zeros((30, 40), bool)
    mask[10:20, 15:30] = True
    return Result(
        frame=number,
        t_source_ms=number * 40.0,
        pixels=COLOUR,
        mask=mask,
        probability=mask * np.uint8(255),
        nodules=[],
        size=None,
        roi=Roi(8, 4, 24, 20),
        spacing_mm=spacing,
        captured=time.perf_counter(),
    )


@contextmanager
def igtl_out(**context: Any) -> Iterator[tuple[Any, int]]:
    sink: Any = open_sink("igtl-out://:0", SinkContext(**context))
    try:
        yield sink, int(sink.address.split(":")[1])
    finally:
        sink.close()


@pytest.mark.parametrize("uncut", [False, True])
def test_pyigtl_reads_what_was_segmented(uncut: bool) -> None:
    with igtl_out(uncut=uncut) as (sink, port):
        client = pyigtl.OpenIGTLinkClient(port=port)
        wait_until(lambda: sink._feed.receivers)
        sink.write(result(7))
        image, mask = (client.wait_for_message(name, timeout=10) for name in ("Image", "Mask"))
        client.stop()
    given = result(7)
    part = np.s_[:, :] if uncut else given.roi.slices
    assert np.array_equal(image.image[0], given.pixels[part])
    assert np.array_equal(mask.image[0], given.mask[part] * 255)
    assert np.array_equal(image.ijk_to_world_matrix, mask.ijk_to_world_matrix)
    corner = (0, 0) if uncut else (given.roi.x * 0.25, given.roi.y * 0.5)
    expected = [[0.25, 0, 0, corner[0]], [0, 0.5, 0, corner[1]], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert image.ijk_to_world_matrix == pytest.approx(np.array(expected), abs=1e-5)
    assert image.timestamp == mask.timestamp == pytest.approx(time.time(), abs=20)
    assert image.metadata == mask.metadata == {"FrameNumber": "7"}


def test_our_source_reads_what_was_segmented() -> None:
    with igtl_out() as (sink, port), open_source(f"igtl://:{port}?device=Mask") as source:
        wait_until(lambda: sink._feed.receivers)
        frames = iter(source)
        sink.write(result(7))
        first = next(frames)
        sink.write(result(9, spacing=None))
        second = next(frames)
    assert (first.index, second.index) == (0, 2)
    assert (first.spacing_mm, second.spacing_mm) == ((0.25, 0.5), None)
    assert np.array_equal(first.pixels, result(7).mask[4:24, 8:32] * 255)


def test_a_client_that_hangs_holds_nothing_up() -> None:
    large = result(0)
    large.pixels = np.zeros((600, 800), np.uint8)
    large.mask = np.zeros((600, 800), bool)
    large.roi = Roi(0, 0, 800, 600)
    with igtl_out() as (sink, port):
        with socket.create_connection(("127.0.0.1", port)):
            wait_until(lambda: sink._feed.receivers)
            start = time.perf_counter()
            for _ in range(20):
                sink.write(large)
            took = time.perf_counter() - start
            start = time.perf_counter()
            sink.close()
            closing_took = time.perf_counter() - start
    assert took < 5 and closing_took < 3
    assert sink._feed.skipped > 5


def test_a_port_in_use() -> None:
    with igtl_out() as (_, port), pytest.raises(SinkError, match="in use"):
        open_sink(f"igtl-out://:{port}")
