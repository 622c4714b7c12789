"""Small DICOM files that tests write themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

IDENTIFYING = {
    "PatientName": "Doe^Jane",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "19700102",
    "PatientSex": "F",
    "PatientAge": "055Y",
    "OtherPatientNames": "Roe^Jane",
    "AccessionNumber": "ACC-0815",
    "StudyDate": "20240305",
    "StudyTime": "101112",
    "StudyID": "STUDY-42",
    "StudyDescription": "Schilddruese Zimmer 3",
    "SeriesDescription": "Knoten rechts Doe",
    "ReferringPhysicianName": "House^Gregory",
    "PerformingPhysicianName": "Wilson^James",
    "OperatorsName": "Cuddy^Lisa",
    "InstitutionName": "Princeton Plainsboro",
    "InstitutionalDepartmentName": "Diagnostics-7",
    "StationName": "STATION-9",
    "DeviceSerialNumber": "SN-123987",
    "Manufacturer": "Scanner Maker AG",
    "ManufacturerModelName": "EchoMatic",
    "ContentDate": "20240306",
    "ImageComments": "call Jane Doe",
}


def write_header(path: Path, frames: int | None, rows: int, columns: int) -> Dataset:
    """An ultrasound image or cine with identifiers in every place, without coordinate system and without pixels."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid(None)
    header.StudyInstanceUID, header.SeriesInstanceUID = generate_uid(None), generate_uid(None)
    header.Modality, header.SeriesNumber, header.InstanceNumber = "US", 1, 1
    for keyword, value in IDENTIFYING.items():
        setattr(header, keyword, value)
    header.Rows, header.Columns = rows, columns
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    if frames is not None:
        header.NumberOfFrames, header.FrameTime = frames, 40
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return header


def write_pixels(path: Path, header: Dataset, pixels: NDArray[np.uint8]) -> None:
    """Adds gray pixels [frames, rows, columns] to a header and writes both."""
    data = pixels.tobytes()
    header.PixelData = data + b"\0" * (len(data) % 2)
    header["PixelData"].VR = "OB"
    pydicom.dcmwrite(path, header, enforce_file_format=True)
