"""DICOM segmentations: read back with highdicom and pydicom, equal to the PNG masks, and without identifiers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from dicoms import IDENTIFYING, write_header, write_pixels
from fakes import BrightEngine, disc, make_result, write_folder
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, generate_uid

from ssmt_edge.errors import MissingDependency, SinkError
from ssmt_edge.segment import Segmenter
from ssmt_edge.sinks import SinkContext, open_sink
from ssmt_edge.sources import open_source

hd = pytest.importorskip("highdicom")

ROWS, COLUMNS = 53, 67  # 3551 bits: frames begin within bytes


def gray(frames: int) -> NDArray[np.uint8]:
    """Discs that wander; none in every third frame."""
    images = [disc((ROWS, COLUMNS), (20 + 3 * i, 25), 9) for i in range(frames)]
    return np.stack([np.full_like(image, 40) if i % 3 == 2 else image for i, image in enumerate(images)])


def ultrasound(path: Path, frames: int | None) -> Dataset:
    header = write_header(path, frames, ROWS, COLUMNS)
    write_pixels(path, header, gray(frames or 1))
    return header


def enhanced(path: Path, frames: int, distance: float = 1.0) -> Dataset:
    """A multi-frame image whose frames lie in the patient, `distance` mm apart."""
    header = write_header(path, frames, ROWS, COLUMNS)
    header.SOPClassUID, header.Modality, header.FrameOfReferenceUID = EnhancedCTImageStorage, "CT", generate_uid(None)
    header.PositionReferenceIndicator = ""

    def item(**elements: Any) -> Dataset:
        made = Dataset()
        for keyword, value in elements.items():
            setattr(made, keyword, value)
        return made

    header.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[0.2, 0.2], SliceThickness=1, SpacingBetweenSlices=1)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    header.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[item(FrameReferenceDateTime="20240305")],
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, i * distance])],
        )
        for i in range(frames)
    ]
    write_pixels(path, header, gray(frames))
    return header


def single_in_space(path: Path, _: int = 1) -> Dataset:
    header = ultrasound(path, None)
    header.SOPClassUID, header.Modality = "1.2.840.10008.5.1.4.1.1.2", "CT"
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = generate_uid(None), ""
    header.ImagePositionPatient, header.ImageOrientationPatient = [1, 2, 3], [1, 0, 0, 0, 1, 0]
    header.PixelSpacing, header.SliceThickness = [0.2, 0.2], 1
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return header


SOURCES = {
    "multi-frame without coordinates": (lambda path: ultrasound(path, 7), 7),
    "single frame without coordinates": (lambda path: ultrasound(path, None), 1),
    "multi-frame with coordinates": (lambda path: enhanced(path, 5), 5),
    "single frame with coordinates": (single_in_space, 1),
    "multi-frame, all in one place": (lambda path: enhanced(path, 4, distance=0.0), 4),
}


def segmented(source: Path, out: Path, stop: int | None = None, **options: Any) -> Dataset:
    """The object, with PNG masks beside it in `masks/`."""
    with open_source(str(source)) as frames:
        context = SinkContext(source=frames, segmenter=Segmenter(BrightEngine()), **options)
        sinks = [open_sink(str(out), context), open_sink(f"{out.parent}/masks/", context)]
        for frame in frames:
            for sink in sinks:
                if stop is None or frame.index < stop:
                    sink.write(make_result(frame.index, frame.pixels))
        for sink in sinks:
            sink.close()
    return pydicom.dcmread(out)


def png_masks(folder: Path) -> NDArray[np.bool_]:
    masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.iterdir())]
    return np.stack([mask == 255 for mask in masks if mask is not None])


@pytest.fixture(params=SOURCES, ids=str)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("keep", [False, True])
def test_masks_and_references_read_back(tmp_path: Path, kind: str, keep: bool) -> None:
    write, count = SOURCES[kind]
    header = write(tmp_path / "source.dcm")
    written = segmented(tmp_path / "source.dcm", tmp_path / "seg.dcm", keep_identifiers=keep)
    masks = png_masks(tmp_path / "masks")
    assert masks.any() and masks.shape == (count, ROWS, COLUMNS)
    read = hd.seg.segread(tmp_path / "seg.dcm")
    if "NumberOfFrames" in header:
        found = read.get_pixels_by_source_frame(header.SOPInstanceUID, list(range(1, count + 1)))
    else:
        found = read.get_pixels_by_source_instance([header.SOPInstanceUID])
    assert (found[..., 0] == masks).all()
    # pydicom knows nothing of references: its frames in the order of the file
    pixels = written.pixel_array.reshape(-1, ROWS, COLUMNS)
    assert len(pixels) == count and written.SegmentationType == "BINARY"
    for frame, groups in zip(pixels, written.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert source.ReferencedSOPClassUID == header.SOPClassUID
        number = source.get("ReferencedFrameNumber", 1)
        assert ("ReferencedFrameNumber" in source) == ("NumberOfFrames" in header)
        assert (frame == masks[number - 1]).all()
    in_space = "with coordinates" in kind
    assert ("FrameOfReferenceUID" in written) == in_space
    placed = [g for g in written.PerFrameFunctionalGroupsSequence if "PlanePositionSequence" in g]
    assert len(placed) == (count if in_space else 0)
    (segment,) = written.SegmentSequence
    assert segment.SegmentAlgorithmType == "AUTOMATIC" and segment.SegmentAlgorithmName == "ssmt-edge fake"
    assert segment.AnatomicRegionSequence[0].CodeMeaning == "Thyroid"
    assert "research use only" in written.SeriesDescription and "research use only" in written.ContentDescription


def texts(dataset: Dataset) -> Iterator[str]:
    """Every value of a dataset, however deep."""
    for element in dataset.iterall():
        if element.VR != "SQ" and element.keyword != "PixelData":
            yield from map(str, element.value if element.VM > 1 else [element.value])


def test_no_identifier_of_the_source_is_written(tmp_path: Path, kind: str) -> None:
    header = SOURCES[kind][0](tmp_path / "source.dcm")
    written = segmented(tmp_path / "source.dcm", tmp_path / "seg.dcm")
    found = set(texts(written))
    assert not found & (set(IDENTIFYING.values()) - {"F"}) and written.PatientSex == ""
    data = (tmp_path / "seg.dcm").read_bytes()
    for value in IDENTIFYING.values():
        assert len(value) < 4 or value.encode() not in data, value
    assert written.PatientName == written.PatientID == written.AccessionNumber == ""
    assert written.PatientIdentityRemoved == "YES"
    assert written.StudyInstanceUID != header.StudyInstanceUID
    (study,) = written.StudiesContainingOtherReferencedInstancesSequence
    assert study.StudyInstanceUID == header.StudyInstanceUID
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == header.SeriesInstanceUID
    uids = {header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID, header.SOPClassUID}
    from_source = found & set(texts(header)) & {value for value in found if value.count(".") > 4}
    assert from_source <= {*uids, header.get("FrameOfReferenceUID")}


def test_kept_identifiers_file_it_under_the_study(tmp_path: Path, kind: str) -> None:
    header = SOURCES[kind][0](tmp_path / "source.dcm")
    written = segmented(tmp_path / "source.dcm", tmp_path / "seg.dcm", keep_identifiers=True)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyDate", "StudyDescription"):
        assert written[keyword].value == header[keyword].value
    assert written.StudyInstanceUID == header.StudyInstanceUID
    assert written.SeriesInstanceUID != header.SeriesInstanceUID
    (series,) = written.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == header.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind.startswith("multi")])
def test_a_run_that_ends_early_claims_nothing_of_the_frames_it_did_not_see(tmp_path: Path, kind: str) -> None:
    SOURCES[kind][0](tmp_path / "source.dcm")
    written = segmented(tmp_path / "source.dcm", tmp_path / "seg.dcm", stop=3)
    assert (written.pixel_array == png_masks(tmp_path / "masks")).all()
    numbers = [
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for groups in written.PerFrameFunctionalGroupsSequence
    ]
    assert numbers == [1, 2, 3]


def test_a_later_start_refers_to_the_frames_of_the_file(tmp_path: Path) -> None:
    header = ultrasound(tmp_path / "source.dcm", 7)
    with open_source(str(tmp_path / "source.dcm")) as source:
        sink = open_sink(str(tmp_path / "seg.dcm"), SinkContext(source=source))
        for index in (4, 5):
            sink.write(make_result(index, gray(7)[index]))
        sink.close()
    read = hd.seg.segread(tmp_path / "seg.dcm")
    masks = read.get_pixels_by_source_frame(header.SOPInstanceUID, [5, 6])[..., 0]
    assert (masks == (gray(7)[4:6] > 127)).all()


@pytest.mark.parametrize("index, size, reason", [(7, (ROWS, COLUMNS), "not among the 7"), (0, (20, 30), "30 x 20")])
def test_results_that_are_not_of_the_source_are_refused(
    tmp_path: Path, index: int, size: tuple[int, int], reason: str
) -> None:
    ultrasound(tmp_path / "source.dcm", 7)
    with open_source(str(tmp_path / "source.dcm")) as source:
        sink = open_sink(str(tmp_path / "seg.dcm"), SinkContext(source=source))
        with pytest.raises(SinkError, match=reason):
            sink.write(make_result(index, disc(size)))
        sink.close()
    assert [p.name for p in tmp_path.iterdir()] == ["source.dcm"]


def test_other_sources_are_told_what_to_do(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", 1)
    for context in (SinkContext(), SinkContext(source=open_source(str(folder)))):
        with pytest.raises(SinkError, match=r"give a DICOM file as source, or write PNG masks into a folder \(DIR/\)"):
            open_sink(str(tmp_path / "seg.dcm"), context)
    assert [p.name for p in tmp_path.iterdir()] == ["frames"]


@pytest.mark.parametrize("keep", [False, True])
def test_headers_as_scanners_write_them(tmp_path: Path, keep: bool) -> None:
    header = ultrasound(tmp_path / "source.dcm", 2)
    header.PatientName, header.SpecificCharacterSet = "Doe^JaneXYZ", "ISO_IR 144"
    header.LossyImageCompression, header.LossyImageCompressionRatio, header.PatientWeight = "01", "12.25", None
    del header.StudyInstanceUID, header.AccessionNumber
    write_pixels(tmp_path / "source.dcm", header, gray(2))
    broken = (tmp_path / "source.dcm").read_bytes()
    for good, bad in ((b"XYZ", b"\xe9\xff\xfe"), (b"ISO_IR 144", b"NONSENSE  "), (b"12.25", b"12ab5")):
        assert good in broken
        broken = broken.replace(good, bad)
    (tmp_path / "source.dcm").write_bytes(broken)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segmented(tmp_path / "source.dcm", tmp_path / "seg.dcm", keep_identifiers=keep)
        read = hd.seg.segread(tmp_path / "seg.dcm")
        masks = read.get_pixels_by_source_frame(header.SOPInstanceUID, [1, 2])[..., 0]
    assert (masks == png_masks(tmp_path / "masks")).all()


def test_highdicom_is_asked_for_only_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    ultrasound(tmp_path / "cine.dcm", 2)
    segmented(tmp_path / "cine.dcm", tmp_path / "seg.dcm")
    enhanced(tmp_path / "volume.dcm", 2)
    with pytest.raises(MissingDependency, match=r"ssmt-edge\[seg\]"):
        segmented(tmp_path / "volume.dcm", tmp_path / "seg2.dcm")


def test_real_cines(tmp_path: Path, shared_data: Path) -> None:
    sources = [Path(str(pydicom.examples.get_path("ybr_color"))), *sorted((shared_data / "dicom").iterdir())]
    assert len(sources) > 1
    for number, source in enumerate(sources):
        out = tmp_path / str(number) / "seg.dcm"
        header = pydicom.dcmread(source, stop_before_pixels=True)
        with open_source(str(source)) as frames:
            sinks = [open_sink(str(out), SinkContext(source=frames)), open_sink(f"{out.parent}/masks/")]
            for frame in frames:
                light = frame.pixels if frame.pixels.ndim == 2 else frame.pixels.max(axis=2)
                for sink in sinks:
                    sink.write(replace(make_result(frame.index, np.ascontiguousarray(light)), nodules=[]))
            for sink in sinks:
                sink.close()
        masks = png_masks(out.parent / "masks")
        assert (hd.seg.segread(out).pixel_array.reshape(masks.shape) == masks).all()
        assert len(masks) == int(header.get("NumberOfFrames") or 1)
        assert str(header.get("PatientName") or "nobody").encode() not in out.read_bytes()
