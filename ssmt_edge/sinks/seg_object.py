"""The DICOM segmentation object: what stands in it, and what of the source's header may.

Attributes after DICOM PS3.3, A.51 (Segmentation IOD) and C.8.20; codes after PS3.16.
"""

from __future__ import annotations

import copy
import datetime
from dataclasses import dataclass
from typing import Any

import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid

from ssmt_edge import __version__
from ssmt_edge.overlay import TEXT
from ssmt_edge.segment import Segmenter

MAKER = "ssmt-edge"
LABEL = "Thyroid nodule"
SERIES = f"Thyroid nodules, {TEXT}"
SERIES_NUMBER = 1000
ORANGE = (45000, 42000, 46000)  # RecommendedDisplayCIELabValue

PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight"),
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription", "ReferringPhysicianName"),
)
"""what identifies patient and examination, and makes a PACS file the segmentation under the study"""

EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"),
)
"""those of them that must be there, if only without a value"""

IMAGE = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "ImageType", "Rows", "Columns", "NumberOfFrames", "PositionReferenceIndicator"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("DimensionOrganizationSequence", "DimensionIndexSequence", "DimensionOrganizationType"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
"""what a segmentation needs to know of the image itself"""


@dataclass(frozen=True)
class Author:
    """What made the masks."""

    name: str = MAKER
    version: str = __version__

    @staticmethod
    def of(segmenter: Segmenter | None) -> Author:
        if segmenter is None:
            return Author()
        spec = segmenter.engine.spec
        return Author(f"{MAKER} {spec.model}", f"{__version__}, spec {spec.version}")


def has_coordinates(header: pydicom.Dataset) -> bool:
    """Whether the source says where in the patient its frames lie."""
    placed = "ImagePositionPatient" in header or "PerFrameFunctionalGroupsSequence" in header
    return bool(header.get("FrameOfReferenceUID")) and placed


def segmentation_in_space(
    header: pydicom.Dataset, masks: NDArray[Any], author: Author, keep_identifiers: bool
) -> pydicom.Dataset | None:
    """highdicom's object for a source with a coordinate system; None where it refuses the source.

    Args:
        header: the source's, single-frame or multi-frame.
        masks: uint8 [frames, rows, columns], 0 or 1, one for each frame of the source.
        author: what made the masks.
        keep_identifiers: see `segmentation`.
    """
    import highdicom as hd

    algorithm = hd.AlgorithmIdentificationSequence(
        name=author.name, version=author.version, family=codes.DCM.ArtificialIntelligence
    )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=LABEL,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Nodule,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[codes.SCT.Thyroid],
    )
    segment.RecommendedDisplayCIELabValue = list(ORANGE)
    try:
        made = hd.seg.Segmentation(
            source_images=[_known(header, keep_identifiers)],
            pixel_array=masks,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[segment],
            series_instance_uid=generate_uid(None),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(None),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=__version__,
            device_serial_number="0",
            omit_empty_frames=False,
            content_label="NODULE",
            content_description=SERIES,
            series_description=SERIES,
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
    except Exception:  # whatever it finds missing or contradictory in headers of real scanners
        return None
    if not keep_identifiers:
        _leave_study(made, header)
    return made


def segmentation(header: pydicom.Dataset, frames: list[int], author: Author, keep_identifiers: bool) -> pydicom.Dataset:
    """The object without patient geometry, for sources without a coordinate system; its pixel data is the caller's.

    Args:
        header: the source's, single-frame or multi-frame.
        frames: index, from 0, of the source frame of every frame written.
        author: what made the masks.
        keep_identifiers: patient and study as in the source; else those are empty, the study is a new one, and of the
            source only the UIDs remain by which DICOM refers to it.
    """
    known = _known(header, keep_identifiers)
    now = datetime.datetime.now()
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = SegmentationStorage, generate_uid(None)
    made.InstanceCreationDate = made.ContentDate = now.strftime("%Y%m%d")
    made.InstanceCreationTime = made.ContentTime = now.strftime("%H%M%S")
    for keyword in PATIENT_AND_STUDY:
        if keyword in known:
            made[keyword] = known[keyword]
    made.StudyInstanceUID = known.get("StudyInstanceUID") or generate_uid(None)
    made.Modality, made.SeriesInstanceUID = "SEG", generate_uid(None)
    made.SeriesNumber, made.InstanceNumber, made.SeriesDescription = SERIES_NUMBER, 1, SERIES
    made.Manufacturer = made.ManufacturerModelName = MAKER
    made.DeviceSerialNumber, made.SoftwareVersions = "0", __version__

    made.ImageType, made.PatientOrientation = ["DERIVED", "PRIMARY"], ""
    made.ContentLabel, made.ContentDescription, made.ContentCreatorName = "NODULE", SERIES, ""
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 1, 1, 0
    made.Rows, made.Columns, made.NumberOfFrames = header.Rows, header.Columns, len(frames)
    made.LossyImageCompression = header.get("LossyImageCompression") or "00"
    if made.LossyImageCompression == "01":
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in header:
                made[keyword] = header[keyword]
    made.SegmentationType, made.SegmentsOverlap = "BINARY", "NO"
    made.SegmentSequence = [_segment(author)]

    organization = generate_uid(None)
    made.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    pointers = [
        ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
        ("TemporalPositionIndex", "FrameContentSequence"),
    ]
    made.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=pydicom.datadict.tag_for_keyword(pointer),
            FunctionalGroupPointer=pydicom.datadict.tag_for_keyword(group),
            DimensionDescriptionLabel=label,
        )
        for (pointer, group), label in zip(pointers, ("Segment", "Source frame"), strict=True)
    ]
    made.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
    multi = "NumberOfFrames" in header
    made.PerFrameFunctionalGroupsSequence = [
        _frame_groups(header, position, frame, multi) for position, frame in enumerate(frames)
    ]
    instance = _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    made.ReferencedSeriesSequence = [
        _item(
            SeriesInstanceUID=header.get("SeriesInstanceUID") or generate_uid(None),
            ReferencedInstanceSequence=[instance],
        )
    ]
    if not keep_identifiers:
        _leave_study(made, header)
    return made


def _known(header: pydicom.Dataset, keep_identifiers: bool) -> pydicom.Dataset:
    """The source's header as a segmentation may know it; what must be there is, if only without a value."""
    known = pydicom.Dataset()
    if keep_identifiers:
        known.update(copy.deepcopy(header))
    else:
        for keyword in IMAGE:
            if keyword in header:
                known[keyword] = copy.deepcopy(header[keyword])  # a dataset that takes an element over may change it
        if "PositionReferenceIndicator" in known:  # must be there, but is free text
            known.PositionReferenceIndicator = ""
    if hasattr(header, "file_meta"):
        known.file_meta = FileMetaDataset()
        known.file_meta.TransferSyntaxUID = header.file_meta.get("TransferSyntaxUID", ExplicitVRLittleEndian)
    for keyword in EMPTY:
        if keyword not in known:
            setattr(known, keyword, "")
    return known


def _leave_study(made: pydicom.Dataset, header: pydicom.Dataset) -> None:
    """Puts the object into a study of its own: with an empty patient it would contradict the source's in a PACS."""
    made.StudyInstanceUID = generate_uid(None)
    series = made.ReferencedSeriesSequence
    del made.ReferencedSeriesSequence
    made.StudiesContainingOtherReferencedInstancesSequence = [
        _item(StudyInstanceUID=header.get("StudyInstanceUID") or generate_uid(None), ReferencedSeriesSequence=series)
    ]
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = "Only UIDs taken over from the source"


def _segment(author: Author) -> pydicom.Dataset:
    return _item(
        SegmentNumber=1,
        SegmentLabel=LABEL,
        SegmentDescription=SERIES,
        SegmentAlgorithmType="AUTOMATIC",
        SegmentAlgorithmName=author.name,
        SegmentationAlgorithmIdentificationSequence=[
            _item(
                AlgorithmFamilyCodeSequence=[_code(codes.DCM.ArtificialIntelligence)],
                AlgorithmName=author.name,
                AlgorithmVersion=author.version,
            )
        ],
        SegmentedPropertyCategoryCodeSequence=[_code(codes.SCT.MorphologicallyAbnormalStructure)],
        SegmentedPropertyTypeCodeSequence=[_code(codes.SCT.Nodule)],
        AnatomicRegionSequence=[_code(codes.SCT.Thyroid)],
        RecommendedDisplayCIELabValue=list(ORANGE),
    )


def _frame_groups(header: pydicom.Dataset, position: int, frame: int, multi: bool) -> pydicom.Dataset:
    source = _item(
        ReferencedSOPClassUID=header.SOPClassUID,
        ReferencedSOPInstanceUID=header.SOPInstanceUID,
        PurposeOfReferenceCodeSequence=[_code(codes.DCM.SourceImageForImageProcessingOperation)],
        SpatialLocationsPreserved="YES",
    )
    if multi:
        source.ReferencedFrameNumber = frame + 1
    derivation = _item(
        DerivationCodeSequence=[_code(codes.cid7203.SegmentationImageDerivation)], SourceImageSequence=[source]
    )
    return _item(
        FrameContentSequence=[_item(DimensionIndexValues=[1, position + 1], TemporalPositionIndex=frame + 1)],
        SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=1)],
        DerivationImageSequence=[derivation],
    )


def _item(**elements: Any) -> pydicom.Dataset:
    item = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _code(code: Any) -> pydicom.Dataset:
    return _item(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)
