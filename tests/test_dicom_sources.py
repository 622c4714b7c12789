"""What DICOM files may hold: every colour space, every compression that can be had, videos, and files of any length."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pydicom
import pytest
from fakes import disc
from numpy.typing import NDArray
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from test_sources import STORED, frames_of, region, write_dicom, write_video

from ssmt_edge.errors import SourceError
from ssmt_edge.geometry import Roi
from ssmt_edge.sources import open_source

COLOUR = np.stack([STORED, STORED // 2, 255 - STORED], axis=3)


def palette(entries: Callable[[int], list[int]], prefix: str = "", size: int = 256, first: int = 0) -> dict[str, Any]:
    """Tags of a 16-bit palette; `entries(255)` are the words of red, 128 of green, 64 of blue."""
    tags: dict[str, Any] = {}
    for colour, strength in (("Red", 255), ("Green", 128), ("Blue", 64)):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [size, first, 16]
        tags[f"{prefix}{colour}PaletteColorLookupTableData"] = np.array(entries(strength), np.uint16).tobytes()
    return tags


def transcode(path: Path, syntax: uid.UID, **options: Any) -> Path:
    data = pydicom.dcmread(path)
    if syntax.is_encapsulated:
        try:
            data.compress(syntax, generate_instance_uid=False, **options)
        except RuntimeError as error:
            pytest.skip(f"no encoder for {syntax.name}: {error}")
        data.save_as(path)
        return path
    if not syntax.is_little_endian and data.BitsAllocated == 16:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").byteswap().tobytes()
    fresh = Dataset()  # pydicom does not change the order of bytes of what it has read
    for element in data:
        fresh.add(element)
    fresh.file_meta = data.file_meta
    fresh.file_meta.TransferSyntaxUID = syntax
    fresh.save_as(path, enforce_file_format=True)
    return path


def assert_close(path: Path, truth: NDArray[np.uint8], tolerance: int) -> None:
    frames = frames_of(path)
    assert len(frames) == len(truth)
    for frame, expected in zip(frames, truth, strict=True):
        assert frame.pixels.shape == expected.shape
        assert np.abs(frame.pixels.astype(int) - expected).max() <= tolerance


# colour spaces


def test_colours_plane_by_plane(tmp_path: Path) -> None:
    planes = np.ascontiguousarray(COLOUR.transpose(0, 3, 1, 2))
    path = write_dicom(tmp_path / "a.dcm", COLOUR, "RGB", PlanarConfiguration=1, PixelData=planes.tobytes())
    assert_close(path, COLOUR, 0)


@pytest.mark.parametrize(("photometric", "offset", "tolerance"), [("YBR_FULL_422", 0, 3), ("YBR_PARTIAL_422", 16, 4)])
def test_halved_chroma(tmp_path: Path, photometric: str, offset: int, tolerance: int) -> None:
    truth = np.repeat(COLOUR[:, :, ::2], 2, axis=2)  # pairs of equal pixels, so that halving loses nothing
    red, green, blue = truth[..., 0].astype(float), truth[..., 1].astype(float), truth[..., 2].astype(float)
    span_y, span_c = (1.0, 1.0) if offset == 0 else (219 / 255, 224 / 255)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    y = offset + span_y * luma
    cb, cr = 128 + span_c * (blue - luma) / 1.772, 128 + span_c * (red - luma) / 1.402
    stored = np.stack([y[..., ::2], y[..., 1::2], cb[..., ::2], cr[..., ::2]], axis=-1)
    stored = np.clip(stored, 0, 255).round().astype(np.uint8)
    path = write_dicom(tmp_path / "a.dcm", COLOUR, photometric, PixelData=stored.tobytes())
    assert_close(path, truth, tolerance)


def test_palette_in_segments(tmp_path: Path) -> None:
    # the first entry as it is, then a line through all others: a ramp, told in six words
    tags = palette(lambda strength: [0, 1, 0, 1, 255, 257 * strength], "Segmented")
    (frame, _) = frames_of(write_dicom(tmp_path / "a.dcm", STORED, "PALETTE COLOR", **tags))
    expected = STORED[0][..., None] * np.array([255, 128, 64]) / 255
    assert np.abs(frame.pixels - expected).max() <= 1


def test_palette_of_deep_signed_pixels(tmp_path: Path) -> None:
    stored = STORED.astype(np.int16) - 100  # -60 and 100
    tags = palette(lambda strength: [(i * strength) << 8 >> 8 for i in range(256)], size=256, first=-100)
    (frame, _) = frames_of(write_dicom(tmp_path / "a.dcm", stored, "PALETTE COLOR", **tags))
    expected = (STORED[0][..., None].astype(int) * np.array([255, 128, 64])) >> 8
    assert (frame.pixels == expected).all()


# compression


@pytest.mark.parametrize(
    ("syntax", "options", "tolerance"),
    [
        (uid.ImplicitVRLittleEndian, {}, 0),
        (uid.ExplicitVRBigEndian, {}, 0),
        (uid.DeflatedExplicitVRLittleEndian, {}, 0),
        (uid.RLELossless, {}, 0),
        (uid.JPEGLSLossless, {}, 0),
        (uid.JPEGLSNearLossless, {"jls_error": 3}, 3),
        (uid.JPEG2000Lossless, {}, 0),
        (uid.JPEG2000, {"j2k_psnr": [60]}, 8),
    ],
    ids=lambda value: value.keyword if isinstance(value, uid.UID) else "",
)
def test_transfer_syntaxes(tmp_path: Path, syntax: uid.UID, options: dict[str, Any], tolerance: int) -> None:
    if syntax.is_encapsulated and not get_decoder(syntax).is_available:
        pytest.skip(f"no decoder for {syntax.name}")
    assert_close(transcode(write_dicom(tmp_path / "gray.dcm", STORED), syntax, **options), STORED, tolerance)
    deep = write_dicom(tmp_path / "deep.dcm", STORED.astype(np.uint16) * 257)
    if tolerance == 0:
        assert_close(transcode(deep, syntax), STORED, 0)
    colour = write_dicom(tmp_path / "colour.dcm", COLOUR, "RGB")
    assert_close(transcode(colour, syntax, **options), COLOUR, tolerance)


@pytest.mark.parametrize(("syntax", "name"), [(uid.JPEG2000Lossless, "YBR_RCT"), (uid.JPEG2000, "YBR_ICT")])
def test_jpeg_2000_with_its_own_colours(tmp_path: Path, syntax: uid.UID, name: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", COLOUR, "RGB")
    data = pydicom.dcmread(path)
    data.PhotometricInterpretation = name
    data.save_as(path)
    options = {"j2k_psnr": [60]} if syntax == uid.JPEG2000 else {}
    assert_close(transcode(path, syntax, **options), COLOUR, 8 if options else 0)


def test_jpeg_baseline(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", COLOUR, "YBR_FULL_422")
    data = pydicom.dcmread(path)
    frames = [bytes(cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]) for frame in COLOUR]
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    data.save_as(path)
    for frame, expected in zip(frames_of(path), COLOUR, strict=True):
        assert np.abs(frame.pixels.astype(int) - expected).mean() < 2


def shipped(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    if found is None:
        pytest.skip(f"this pydicom does not ship {name}")
    return Path(found)


def test_jpeg_lossless() -> None:
    path = shipped("SC_rgb_jpeg_gdcm.dcm")
    if not get_decoder(uid.JPEGLosslessSV1).is_available:
        pytest.skip("no decoder for lossless JPEG")
    (frame,), (same,) = frames_of(path), frames_of(shipped("SC_rgb_rle.dcm"))
    assert (frame.pixels == same.pixels).all()


def test_deflated_files_of_others() -> None:
    (frame,) = frames_of(shipped("image_dfl.dcm"))
    assert frame.pixels.shape == (512, 512) and frame.pixels.max() > 200


def test_a_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = shipped("SC_rgb_jpeg_gdcm.dcm")
    monkeypatch.setattr(get_decoder(uid.JPEGLosslessSV1), "_available", {})
    with pytest.raises(SourceError, match=r"JPEG Lossless.*needs another package: pip install 'ssmt-edge\[dicom\]'"):
        frames_of(path)


# videos


def write_video_dicom(path: Path, video: Path, syntax: uid.UID, pieces: int) -> Path:
    content = video.read_bytes()
    step = -(-len(content) // (2 * pieces)) * 2  # a byte is added to the last fragment only
    parts = [content[i : i + step] for i in range(0, len(content), step)]
    assert len(parts) == pieces
    write_dicom(path, COLOUR, "YBR_PARTIAL_420", SequenceOfUltrasoundRegions=[region(10, 20, 109, 99)], FrameTime="50")
    data = pydicom.dcmread(path)
    data.NumberOfFrames = 30
    items = b"".join(
        b"\xfe\xff\x00\xe0" + len(part + b"\0" * (len(part) % 2)).to_bytes(4, "little") + part + b"\0" * (len(part) % 2)
        for part in [b"", *parts]
    )
    data.PixelData = items + b"\xfe\xff\xdd\xe0" + bytes(4)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "syntax", "pieces"),
    [
        ("a.mpeg", "mpeg2video", uid.MPEG2MPML, 1),
        ("a.mp4", "libx264", uid.MPEG4HP41, 1),
        ("a.ts", "libx264", uid.MPEG4HP41F, 3),
    ],
)
def test_video_in_dicom(tmp_path: Path, name: str, codec: str, syntax: uid.UID, pieces: int) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg lacks {codec}")
    video = write_video(tmp_path / name, 30, codec)
    plain = frames_of(video)
    path = write_video_dicom(tmp_path / "a.dcm", video, syntax, pieces)
    with open_source(str(path)) as source:
        frames = list(source)
        assert source.fps == 20 and source.frame_count == 30
    assert [f.t_source_ms for f in frames] == pytest.approx([50.0 * i for i in range(30)], abs=0.1)
    assert all((frame.pixels == same.pixels).all() for frame, same in zip(frames, plain, strict=True))
    assert frames[0].roi == Roi(10, 20, 100, 80) and frames[0].spacing_mm == pytest.approx((0.1, 0.2))


def test_a_damaged_video_in_dicom_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    path = write_video_dicom(tmp_path / "a.dcm", tmp_path / "a.mp4", uid.MPEG4HP41, 1)
    with pytest.raises(SourceError, match=r"a\.dcm"):
        frames_of(path)


# length


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("compressed", [False, True])
def test_a_long_cine_is_not_held_in_memory(tmp_path: Path, compressed: bool) -> None:
    count, size = 150 if compressed else 400, (480, 640)
    path = tmp_path / "long.dcm"
    if compressed:
        noise = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        frame = bytes(cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
        write_dicom(path, disc(size)[None])
        data = pydicom.dcmread(path)
        data.PixelData = encapsulate([frame] * count)
        data["PixelData"].VR = "OB"
        data.NumberOfFrames = count
        data.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
        data.save_as(path)
        del data
    else:
        write_dicom(path, np.zeros((1, *size), np.uint8))
        content = path.read_bytes()[: -size[0] * size[1] - 4] + (size[0] * size[1] * count).to_bytes(4, "little")
        content = content.replace(b"IS\x02\x001 ", b"IS\x04\x00400 ")
        path.write_bytes(content)
        os.truncate(path, len(content) + size[0] * size[1] * count)  # zeros that take no room on the disk
    assert path.stat().st_size > 40e6
    with open_source(str(path)) as source:
        frames = iter(source)
        assert len(list(itertools.islice(frames, 20))) == 20
        before = resident()
        later = [resident() for _ in frames]
    assert len(later) == count - 20
    assert max(later) - before < 20e6
