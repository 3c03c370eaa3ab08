"""DICOM series of the phantoms: one file an image, the same request gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.phantoms._files import Array
from ssl_med.spec import SslMedError

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
RADIOGRAPH_STORAGE = "1.2.840.10008.5.1.4.1.1.1.1"
INTERCEPT = -1024


def new_uid(rng: np.random.Generator) -> str:
    """A UID below 2.25, as made of a random number."""
    return f"2.25.{int.from_bytes(rng.bytes(15), 'big')}"


def write_series(
    folder: Path,
    array: Array,
    *,
    spacing: Sequence[float],
    origin: Sequence[float] | Array,
    series: str,
    patient: str,
    modality: str = "CT",
) -> list[str]:
    """Stores int16 HU with axes L, P, S as 1-001.dcm ..., from the top down; returns the images' UIDs from the bottom up."""
    try:
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import UID, ExplicitVRLittleEndian
    except ImportError:
        raise SslMedError("phantom: DICOM needs pydicom; pip install 'ssl-med[dicom]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    count = array.shape[2]
    uids = [f"{series}.{k + 1}" for k in range(count)]
    for k, uid in enumerate(uids):
        number = count - k
        path = folder / f"1-{number:03d}.dcm"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(CT_STORAGE if modality == "CT" else RADIOGRAPH_STORAGE)
        meta.MediaStorageSOPInstanceUID = UID(uid)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid
        image.SeriesInstanceUID, image.StudyInstanceUID = series, f"{series}.0"
        image.Modality, image.PatientID, image.PatientName = modality, patient, patient
        image.InstanceNumber = number
        image.Columns, image.Rows = array.shape[:2]
        image.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
        image.SliceThickness = f"{spacing[2]:.6f}"
        place = [origin[0], origin[1], origin[2] + k * spacing[2]]
        image.ImagePositionPatient = [f"{value:.6f}" for value in place]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleSlope, image.RescaleIntercept = 1, INTERCEPT
        stored = np.clip(array[:, :, k].T.astype(int) - INTERCEPT, -(2**15), 2**15 - 1)
        image.PixelData = stored.astype("<i2").tobytes()
        image.save_as(path, enforce_file_format=True)
    return uids
