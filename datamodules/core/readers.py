"""Files -> arrays with their geometry, whatever their format."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from datamodules.formats.grids import Array, Header, Volume, spatial_shape
from datamodules.formats.metaimage import MetaHeader, read_metaimage
from datamodules.formats.nifti import nifti_grid, nifti_header, nifti_voxels, open_nifti, read_nifti
from datamodules.formats.npy import npy_header, read_npy
from datamodules.formats.nrrd import NrrdHeader, read_nrrd
from ssl_med.spec import SslMedError

PLACEHOLDER = Header((1, 1, 1), np.eye(4))
_assumed: ContextVar[tuple[Path, Mapping[str, Header]]] = ContextVar("assumed", default=(Path(), {}))


@contextmanager
def assumed_headers(headers: Mapping[str, Header], *, root: Path) -> Iterator[None]:
    """Inside, `read_header` answers for these paths, relative to the root, without opening them."""
    token = _assumed.set((root, headers))
    try:
        yield
    finally:
        _assumed.reset(token)


def _assumed_header(path: str) -> Header | None:
    root, headers = _assumed.get()
    if not headers or not Path(path).is_relative_to(root):
        return None
    relative = Path(path).relative_to(root)
    names = (relative.as_posix(), *(parent.as_posix() for parent in relative.parents))
    return next((headers[name] for name in names if name in headers), None)


def voxel_file(path: str) -> Path:
    """The file that holds the voxels: the data file that a .mhd or .nhdr header names, else the path itself."""
    low = path.lower()
    if low.endswith((".mhd", ".mha")):
        return MetaHeader.read(path).data
    return NrrdHeader.read(path).data if low.endswith((".nrrd", ".nhdr")) else Path(path)


def read_header(path: str) -> Header:
    """Grid of a scan without decoding it; raises `SslMedError` that names the file.

    Formats: NIfTI, MetaImage, NRRD, .npy (no geometry: 1 mm, axes L, P, S), or a folder that holds one DICOM series.
    """
    assumed = _assumed_header(path)
    return assumed if assumed is not None else _format_of(path)[0](path)


def read_volume(path: str) -> Volume:
    """Decodes a scan of any format of `read_header`, scale factors applied.

    Raises:
        SslMedError: missing, truncated or malformed file, data of another size than the header says, not 3D,
            several numbers a voxel, NaN or infinite values.
    """
    volume = _format_of(path)[1](path)
    _check_finite(path, volume.array)
    return volume


def read_channels(path: str, count: int) -> list[Volume]:
    """The channels of a NIfTI file (x, y, z, `count`), as volumes on one grid; a 3D file is one channel.

    Raises:
        SslMedError: as `read_volume`, and for another number of channels.
    """
    image = open_nifti(path)
    check_channels(path, count)
    shape, to_world = spatial_shape(path, image.shape[:3]), nifti_grid(path, image)
    array = nifti_voxels(path, image).reshape(*shape, count)
    _check_finite(path, array)
    return [Volume(array[..., channel], to_world) for channel in range(count)]


def check_channels(path: str, count: int) -> Header:
    """Grid of a NIfTI file (x, y, z, `count`) from its header; raises `SslMedError` for another number of channels."""
    assumed = _assumed_header(path)
    if assumed is not None:
        return assumed
    image = open_nifti(path)
    found = math.prod(image.shape[3:])
    if found != count:
        raise SslMedError(f"{path}: holds {found} channels a voxel, {count} are expected")
    return Header(spatial_shape(path, image.shape[:3]), nifti_grid(path, image))


def read_labels(path: str) -> Array:
    """Decodes a label map (x, y, z) to uint8; raises `SslMedError` for values that are no labels."""
    array = read_volume(path).array
    low, high = array.min(), array.max()
    labels = array.astype(np.uint8) if low >= 0 and high <= 255 else None
    if labels is None or not np.array_equal(labels, array):
        raise SslMedError(f"{path}: a mask must hold whole numbers 0..255, found values {low:g}..{high:g}")
    return labels


def source_files(path: str) -> list[Path]:
    """The files that belong to a path: itself, a header and its data, all files of a folder."""
    if os.path.isdir(path):
        return sorted(file for file in Path(path).iterdir() if file.is_file())
    return sorted({Path(path), voxel_file(path)})


def _check_finite(path: str, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise SslMedError(f"{path}: {bad} voxels are NaN or infinite; repair or remove the file")


_Readers = tuple[Callable[[str], Header], Callable[[str], Volume]]
_FORMATS: dict[tuple[str, ...], _Readers] = {
    (".nii", ".nii.gz"): (nifti_header, read_nifti),
    (".mhd", ".mha"): (lambda path: MetaHeader.read(path).grid, read_metaimage),
    (".nrrd", ".nhdr"): (lambda path: NrrdHeader.read(path).grid, read_nrrd),
    (".npy",): (npy_header, read_npy),
}
VOLUME_ENDINGS = tuple(ending for endings in _FORMATS for ending in endings)


def _format_of(path: str) -> _Readers:
    for endings, readers in _FORMATS.items():
        if path.lower().endswith(endings):
            return readers
    if Path(path).is_dir():
        from datamodules.core.dicom import read_series, read_series_header

        return lambda folder: read_series_header(folder).grid, read_series
    if not Path(path).exists():
        raise SslMedError(f"{path}: no such file")
    raise SslMedError(f"{path}: is no volume ({', '.join(VOLUME_ENDINGS)}, or a folder with one DICOM series)")
