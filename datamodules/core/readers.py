"""Files -> arrays with their geometry, whatever their format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from datamodules.formats.grids import Array, Header, Volume
from datamodules.formats.metaimage import MetaHeader, read_metaimage
from datamodules.formats.nifti import nifti_channels_header, nifti_header, read_nifti, read_nifti_channels
from datamodules.formats.npy import npy_header, read_npy
from datamodules.formats.nrrd import NrrdHeader, read_nrrd
from ssl_med.spec import SslMedError

PLACEHOLDER = Header((1, 1, 1), np.eye(4))
_WHOLE = (
    1e-3  # nibabel writes label 1 as 1.0000153 where a mask took over a scan's header; a blurred mask is farther off
)
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


def check_inside(path: str, *, root: Path) -> None:
    """Refuses a header whose data file lies outside of the root: what a stranger's header names is not read."""
    data = voxel_file(path)
    top = Path(os.path.abspath(root))
    if data != Path(path) and not Path(os.path.abspath(data)).is_relative_to(top):
        raise SslMedError(
            f"{path}: its data file {data} lies outside of {root}; put it beside the header and name it so"
        )


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
    return _finite(path, _format_of(path)[1](path))


def read_stack(path: str) -> Volume:
    """As `read_volume`, but a NIfTI file of several numbers a voxel gives (x, y, z, channels)."""
    if not _is_nifti(path):
        return read_volume(path)
    volume = _finite(path, read_nifti_channels(path))
    single = volume.array.shape[3] == 1
    return Volume(volume.array[..., 0], volume.to_world, volume.remarks) if single else volume


def read_channels(path: str, count: int) -> list[Volume]:
    """The channels of a NIfTI file (x, y, z, `count`), as volumes on one grid; a 3D file is one channel.

    Raises:
        SslMedError: as `read_volume`, and for another number of channels.
    """
    check_channels(path, count)
    volume = _finite(path, read_nifti_channels(path))
    return [Volume(volume.array[..., channel], volume.to_world, volume.remarks) for channel in range(count)]


def check_channels(path: str, count: int) -> Header:
    """Grid of a NIfTI file (x, y, z, `count`) from its header; raises `SslMedError` for another number of channels."""
    assumed = _assumed_header(path)
    if assumed is not None:
        return assumed
    header, found = nifti_channels_header(path)
    if found != count:
        raise SslMedError(f"{path}: holds {found} channels a voxel, {count} are expected")
    return header


def read_labels(path: str) -> Array:
    """Label map (x, y, z) uint8; raises `SslMedError` for values that are no labels."""
    return read_label_volume(path).array


def read_label_volume(path: str) -> Volume:
    """A label map, as `read_labels`, with its grid."""
    volume = read_volume(path)
    return Volume(whole_labels(path, volume.array), volume.to_world, volume.remarks)


def whole_labels(path: str, array: Array) -> Array:
    """Labels as uint8: numbers within a thousandth of 0..255; others are refused."""
    low, high = float(array.min()), float(array.max())
    if low >= -_WHOLE and high <= 255 + _WHOLE:
        if array.dtype.kind != "f":
            return array.astype(np.uint8)
        labels = np.rint(array).astype(np.uint8)
        if not (np.abs(array - labels) > _WHOLE).any():
            return labels
    raise SslMedError(f"{path}: a mask must hold whole numbers 0..255, found values {low:g}..{high:g}")


def source_files(path: str) -> list[Path]:
    """The files that belong to a path: itself, a header and its data, all files of a folder."""
    if os.path.isdir(path):
        return sorted(file for file in Path(path).iterdir() if file.is_file())
    return sorted({Path(path), voxel_file(path)})


def _finite(path: str, volume: Volume) -> Volume:
    array = volume.array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise SslMedError(f"{path}: {bad} voxels are NaN or infinite; repair or remove the file")
    return volume


_Readers = tuple[Callable[[str], Header], Callable[[str], Volume]]
_FORMATS: dict[tuple[str, ...], _Readers] = {
    (".nii", ".nii.gz"): (nifti_header, read_nifti),
    (".mhd", ".mha"): (lambda path: MetaHeader.read(path).grid, read_metaimage),
    (".nrrd", ".nhdr"): (lambda path: NrrdHeader.read(path).grid, read_nrrd),
    (".npy",): (npy_header, read_npy),
}
VOLUME_ENDINGS = tuple(ending for endings in _FORMATS for ending in endings)


def _is_nifti(path: str) -> bool:
    return path.lower().endswith((".nii", ".nii.gz"))


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
