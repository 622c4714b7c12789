"""Every frame of every kind of file, with its time, spacing and region."""

from __future__ import annotations

from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pydicom
import pytest
from fakes import disc, make_result, write_folder
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.examples import get_path
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

from ssmt_edge.cli.doctor import examine
from ssmt_edge.errors import SourceError
from ssmt_edge.geometry import Roi
from ssmt_edge.sinks import SinkContext, open_sink
from ssmt_edge.sources import Frame, open_source


def frames_of(path: Path | str) -> list[Frame]:
    with open_source(str(path)) as source:
        frames = list(source)
    assert [f.index for f in frames] == list(range(len(frames)))
    for frame in frames:
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.ndim == 2 or frame.pixels.shape[2:] == (3,)
    return frames


def write_video(path: Path, count: int, codec: str = "mpeg4", step: int = 1, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=20, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 20)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(disc(centre=(20 + 3 * i, 60)), format="gray8")
            frame.pts = i * step
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_dicom(path: Path, stored: NDArray[Any], photometric: str = "MONOCHROME2", **tags: Any) -> Path:
    """`stored` is [frames, H, W] or [frames, H, W, 3]."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid()
    data.NumberOfFrames, data.Rows, data.Columns = stored.shape[:3]
    data.SamplesPerPixel = 3 if stored.ndim == 4 else 1
    if stored.ndim == 4:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = data.BitsStored = 8 * stored.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def region(x0: int, y0: int, x1: int, y1: int, delta: tuple[float, float] = (0.01, 0.02), **tags: int) -> Dataset:
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    item.RegionSpatialFormat, item.PhysicalUnitsXDirection, item.PhysicalUnitsYDirection = 1, 3, 3
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta
    for name, value in tags.items():
        setattr(item, name, value)
    return item


STORED = np.stack([disc(), disc(radius=30)])


# video


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mpeg", "mpeg2video")])
def test_video_frames_and_times(tmp_path: Path, name: str, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg lacks {codec}")
    frames = frames_of(write_video(tmp_path / name, 30, codec))
    assert [f.t_source_ms for f in frames] == pytest.approx([50.0 * i for i in range(30)], abs=0.1)
    assert frames[10].pixels.shape == (120, 160, 3)
    assert frames[10].pixels[60, 50].min() > 150 > 90 > frames[10].pixels[60, 150].max()


def test_video_time_stamps_are_the_files_own(tmp_path: Path) -> None:
    frames = frames_of(write_video(tmp_path / "slow.mkv", 5, step=3))
    assert [f.t_source_ms for f in frames] == pytest.approx([0, 150, 300, 450, 600], abs=1)


def test_damaged_packets_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 40, "mjpeg")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for start, size in packets[10:13]:
        data[start : start + size + 8] = bytes(size + 8)
    path.write_bytes(data)
    with open_source(str(path)) as source:
        count = len(list(source))
        assert 30 <= count <= 37
        assert len(source.notes) == 1


def test_a_video_that_is_cut_short_gives_what_there_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mpeg", 60, "mpeg2video")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 10 < len(frames_of(path)) < 60


@pytest.mark.parametrize("content", [b"", b"not a video\n" * 100, bytes(5000), b"\x00\x00\x00\x18ftypmp42" + bytes(99)])
@pytest.mark.parametrize("name", ["a.mp4", "a.txt", "a"])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"{name}.*video"):
        frames_of(tmp_path / name)


def test_sound_without_pictures_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(SourceError, match="no video stream"):
        frames_of(tmp_path / "a.wav")


# images


def test_folder_in_numerical_order(tmp_path: Path) -> None:
    names = ["2.png", "10.PNG", "1.jpg", "frame_9.png", "frame_10.png", ".hidden.png", "notes.txt"]
    for i, name in enumerate(names):
        image = (
            cv2.imencode(name if name[0] != "." else "x.png", np.full((8, 8), 10 * i, np.uint8))[1] if i < 5 else b""
        )
        (tmp_path / name).write_bytes(bytes(image))
    frames = frames_of(tmp_path)
    assert [round(float(f.pixels.mean()), -1) for f in frames] == [20, 0, 10, 30, 40]
    assert [f.t_source_ms for f in frames] == [0, 40, 80, 120, 160]


def test_a_single_image_and_a_file_uri(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    (frame,) = frames_of(tmp_path / "1.png")
    assert (frame.pixels == disc(centre=(42, 60))).all()
    assert len(frames_of(f"file://{tmp_path}")) == 3


def test_colour_is_rgb_and_deep_values_become_8_bit(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "1.png"), red)
    cv2.imwrite(str(tmp_path / "2.png"), np.full((8, 8), 0x80FF, np.uint16))
    cv2.imwrite(str(tmp_path / "3.png"), np.full((8, 8, 4), 77, np.uint8))
    colour, deep, alpha = frames_of(tmp_path)
    assert colour.pixels[0, 0].tolist() == [255, 0, 0]
    assert set(deep.pixels.ravel().tolist()) == {0x80}
    assert alpha.pixels.shape == (8, 8, 3)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    (tmp_path / "5.png").write_text("text")
    with pytest.raises(SourceError, match=r"5\.png is not a readable image"):
        frames_of(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    for uri, message in [
        (str(tmp_path), "holds no images"),
        (str(tmp_path / "none.mp4"), "does not exist"),
        ("ftp://host/a.mp4", "no source for ftp://; give a file, a folder of images or one of csi://, .*rtsp://"),
    ]:
        with pytest.raises(SourceError, match=message):
            frames_of(uri)


# DICOM


def test_dicom_gray_and_inverted(tmp_path: Path) -> None:
    plain = frames_of(write_dicom(tmp_path / "a", STORED))  # told by its content, not by its name
    inverted = frames_of(write_dicom(tmp_path / "b.dcm", 255 - STORED, "MONOCHROME1"))
    for i in range(2):
        assert (plain[i].pixels == STORED[i]).all() and (inverted[i].pixels == STORED[i]).all()


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint16, 16), (np.uint16, 12), (np.int16, 16)])
def test_dicom_deep_values(tmp_path: Path, dtype: Any, bits: int) -> None:
    stored = (STORED.astype(np.int64) * ((1 << bits) - 1) // 255 - (1 << 15 if dtype == np.int16 else 0)).astype(dtype)
    path = write_dicom(tmp_path / "a.dcm", stored, BitsStored=bits, HighBit=bits - 1)
    for frame, truth in zip(frames_of(path), STORED, strict=True):
        assert np.abs(frame.pixels.astype(int) - truth).max() <= 1


def test_dicom_colour(tmp_path: Path) -> None:
    rgb = np.stack([STORED, STORED // 2, STORED // 4], axis=3)
    assert (frames_of(write_dicom(tmp_path / "a.dcm", rgb, "RGB"))[1].pixels == rgb[1]).all()
    ybr = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2YCrCb)[:, :, [0, 2, 1]] for f in rgb])
    converted = frames_of(write_dicom(tmp_path / "b.dcm", ybr, "YBR_FULL"))[1].pixels
    assert np.abs(converted.astype(int) - rgb[1]).max() <= 3


@pytest.mark.parametrize("deep", [True, False])
def test_dicom_palette(tmp_path: Path, deep: bool) -> None:
    table = np.arange(255, -1, -1).astype(np.uint16)
    tags: dict[str, Any] = {}
    for colour, factor in (("Red", 1.0), ("Green", 0.5), ("Blue", 0.25)):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        entries = (table * factor).astype(np.uint16) << (8 if deep else 0)
        tags[f"{colour}PaletteColorLookupTableData"] = entries.tobytes()
    path = write_dicom(tmp_path / "a.dcm", STORED, "PALETTE COLOR", **tags)
    truth = np.stack([(255 - STORED[0]) * f for f in (1.0, 0.5, 0.25)], axis=2).astype(np.uint8)
    assert (frames_of(path)[0].pixels == truth).all()


def test_dicom_region_and_spacing(tmp_path: Path) -> None:
    regions = [
        region(0, 0, 159, 119, RegionSpatialFormat=3),  # a spectrum, although larger
        region(2, 3, 40, 30, delta=(0.5, 0.5)),
        region(10, 20, 109, 99, delta=(0.01, -0.02)),
    ]
    frame = frames_of(write_dicom(tmp_path / "a.dcm", STORED, SequenceOfUltrasoundRegions=regions))[0]
    assert frame.roi == Roi(10, 20, 100, 80)
    assert frame.spacing_mm == pytest.approx((0.1, 0.2))


@pytest.mark.parametrize("delta", [(0.0, 0.01), (float("nan"), 0.01), (float("inf"), 0.01)])
def test_impossible_spacing_is_unknown(tmp_path: Path, delta: tuple[float, float]) -> None:
    path = write_dicom(tmp_path / "a.dcm", STORED, SequenceOfUltrasoundRegions=[region(0, 0, 159, 119, delta)])
    assert frames_of(path)[0].spacing_mm is None
    path = write_dicom(tmp_path / "b.dcm", STORED, PixelSpacing=[0.0, 0.0])
    assert frames_of(path)[0].spacing_mm is None


def test_other_units_are_not_taken_for_centimetres(tmp_path: Path) -> None:
    time_axis = region(0, 0, 159, 119, PhysicalUnitsXDirection=4)
    path = write_dicom(tmp_path / "a.dcm", STORED, SequenceOfUltrasoundRegions=[time_axis])
    assert frames_of(path)[0].spacing_mm is None


def test_pixel_spacing_names_rows_first(tmp_path: Path) -> None:
    assert frames_of(write_dicom(tmp_path / "a.dcm", STORED, PixelSpacing=[0.3, 0.2]))[0].spacing_mm == (0.2, 0.3)


def test_a_region_that_does_not_fit_is_not_used_and_told(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", STORED, SequenceOfUltrasoundRegions=[region(20, 10, 319, 200)])
    with open_source(str(path)) as source:
        frame = next(iter(source))
        assert (frame.roi, frame.spacing_mm) == (None, None)
        assert "does not fit the 160 x 120 image" in source.notes[0]
    # counting the last pixel or the one after it are both in use
    path = write_dicom(tmp_path / "b.dcm", STORED, SequenceOfUltrasoundRegions=[region(20, 10, 160, 120)])
    assert frames_of(path)[0].roi == Roi(20, 10, 140, 110)


@pytest.mark.parametrize(
    ("tags", "fps", "second"),
    [
        ({}, None, 40.0),
        ({"FrameTime": "50"}, 20.0, 50.0),
        ({"FrameTime": "0"}, None, 40.0),
        ({"FrameTime": "0", "CineRate": "10"}, 10.0, 100.0),
        ({"RecommendedDisplayFrameRate": "30"}, 30.0, 1000 / 30),
        ({"FrameTimeVector": ["0", "25"]}, 40.0, 25.0),
        ({"FrameTimeVector": ["0", "0"]}, None, 0.0),
        ({"FrameTimeVector": "0"}, None, 40.0),
    ],
)
def test_dicom_times(tmp_path: Path, tags: dict[str, Any], fps: float | None, second: float) -> None:
    path = write_dicom(tmp_path / "a.dcm", STORED, **tags)
    with open_source(str(path)) as source:
        assert source.fps == pytest.approx(fps)
        assert source.frame_count == 2
        assert [f.t_source_ms for f in source] == pytest.approx([0.0, second])


def test_dicom_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "fake.dcm").write_text("no DICOM at all")
    path = write_dicom(tmp_path / "nothing.dcm", STORED)
    data = pydicom.dcmread(path)
    del data.PixelData
    data.save_as(path)
    short = write_dicom(tmp_path / "short.dcm", STORED)
    short.write_bytes(short.read_bytes()[:-10_000])
    strange = write_dicom(tmp_path / "strange.dcm", STORED, "XYZ")
    for file, message in [
        (tmp_path / "fake.dcm", "not a readable DICOM"),
        (path, "no pixel data"),
        (Path(get_path("rt_plan")), "no pixel data"),
        (short, "cannot be decoded"),
        (strange, "photometric interpretation XYZ"),
    ]:
        with pytest.raises(SourceError, match=message) as raised:
            frames_of(file)
        assert file.name in str(raised.value) and "\n" not in str(raised.value)


# real ultrasound


def test_the_cine_that_pydicom_ships() -> None:
    frames = frames_of(get_path("ybr_color"))
    assert len(frames) == 30
    assert frames[29].pixels.shape == (240, 320, 3)
    assert frames[29].t_source_ms == pytest.approx(29 * 33.333, abs=0.1)


def test_real_clips_have_all_their_frames(shared_data: Path) -> None:
    files = sorted((shared_data / "clips").iterdir())
    assert files
    for file in files:
        capture, count = cv2.VideoCapture(str(file)), 0
        while capture.grab():
            count += 1
        times = [f.t_source_ms for f in frames_of(file)]
        assert len(times) == count > 0, file
        assert times == sorted(times) and times[0] == 0


def test_real_dicom_files(shared_data: Path) -> None:
    counts = {f.name: len(frames_of(f)) for f in (shared_data / "dicom").iterdir()}
    for file in (shared_data / "dicom").iterdir():
        assert counts[file.name] == int(pydicom.dcmread(file, stop_before_pixels=True).get("NumberOfFrames", 1))
    (first, _) = frames_of(shared_data / "dicom" / "pydicomdata_OBXXXX1A_rle_2frame.dcm")
    assert first.roi == Roi(120, 60, 680, 459)
    assert first.spacing_mm == pytest.approx((0.26229, 0.26229), abs=1e-5)


def test_real_folder_of_frames(shared_data: Path) -> None:
    folder = shared_data / "vtus" / "0002" / "frames"
    assert len(frames_of(folder)) == len(list(folder.iterdir()))


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(SourceError, match="names no place"):
        open_source("")


def test_a_colon_in_a_relative_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink = open_sink("12:30.mp4", SinkContext(fps=25.0))
    for index in range(3):
        sink.write(make_result(index))
    sink.close()
    with open_source("12:30.mp4") as source:
        assert len(list(source)) == 3


# other people's sources

PACKAGE = """
import numpy as np
from ssmt_edge.sources import Frame
from ssmt_edge.sources.base import BaseSource

class Gray(BaseSource):
    def __iter__(self):
        yield Frame(0, 0.0, np.full((8, 8), 77, np.uint8))

def open_uri(uri):
    return Gray(uri)
"""


def test_a_scheme_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "graysource.py").write_text(PACKAGE)
    info = tmp_path / "graysource-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: graysource\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ssmt_edge.sources]\ngray = graysource:open_uri\nbroken = nosuchmodule:open_uri\nrtsp = graysource:open_uri\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (frame,) = frames_of("gray://anything")
    assert frame.pixels.mean() == 77
    with pytest.raises(SourceError, match=r"nosuchmodule:open_uri, registered for broken://, fails"):
        open_source("broken://")
    found = examine()["sources"]
    assert found["gray"] == {"found": "graysource:open_uri", "problem": None}
    assert found["broken"]["found"] is None and "nosuchmodule:open_uri cannot be imported" in found["broken"]["problem"]
    with closing(open_source("gray://me:secret@host/a?token=abc")) as source:
        assert source.name == "gray://host/a?token=***"
    with pytest.raises(SourceError, match=r"one of broken://, .*gray://"):
        open_source("unknown://")
    with pytest.raises(SourceError, match="connection refused"):  # a scheme of our own cannot be taken over
        open_source("rtsp://127.0.0.1:1/a")
