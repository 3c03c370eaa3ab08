"""Folder, seeds and file writers of the phantoms: the same request gives the same bytes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from datamodules.core.synthetic import MARKER
from ssl_med.spec import SslMedError

Array = np.ndarray[Any, Any]


def subject_rng(kind: str, seed: int, index: int) -> np.random.Generator:
    """Randomness of one subject; it does not depend on how many subjects there are."""
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), index])


def check_request(kind: str, *, subjects: int, seed: int, size: Sequence[int] | None, dims: int, min_side: int) -> None:
    """Refuses counts, seeds and sizes that make no phantom."""
    if subjects < 1:
        raise SslMedError(f"phantom {kind}: subjects is {subjects}; it must be 1 or more")
    if seed < 0:
        raise SslMedError(f"phantom {kind}: seed is {seed}; it must be 0 or more")
    if size is not None and (len(size) != dims or min(size) < min_side):
        raise SslMedError(f"phantom {kind}: size {list(size)} must be {dims} numbers of {min_side} or more")


def open_folder(out: Path, kind: str, *, seed: int, subjects: int, owned: Sequence[str]) -> Path:
    """Makes `out` ready and writes the marker; files of an earlier phantom (patterns `owned`) are removed.

    Raises:
        SslMedError: `out` is a file, or a folder with something in it that is not a phantom of this kind.
    """
    marker = out / MARKER
    if out.exists() and not out.is_dir():
        raise SslMedError(f"{out}: is a file; name a new or empty folder for the phantom")
    if out.is_dir() and any(out.iterdir()):
        first = marker.read_text().splitlines()[:1] if marker.is_file() else []
        if first != [f"kind: {kind}"]:
            raise SslMedError(f"{out}: is not empty and no {kind} phantom; name a new or empty folder")
        for pattern in owned:
            for path in sorted(out.glob(pattern), reverse=True):
                if path.is_file():
                    path.unlink()
                elif path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text(
        f"kind: {kind}\nseed: {seed}\nsubjects: {subjects}\n"
        "Synthetic anatomy, made by a program. It shows no patient and is of no use for diagnosis.\n"
    )
    return out


def write_image(path: Path, image: Array) -> None:
    """Stores grey levels (columns, rows) or colours (columns, rows, 3), uint8, by suffix; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(image.swapaxes(0, 1))).save(path)


def write_gz(path: Path, content: bytes) -> None:
    """Gzip without name and time, so that equal content gives equal bytes."""
    path.write_bytes(gzip.compress(content, compresslevel=3, mtime=0))


def write_nifti(
    path: Path, array: Array, *, spacing: Sequence[float], origin: Sequence[float] | Array, codes: str
) -> None:
    """Stores an array whose axes run L, P, S as .nii.gz with axes that increase towards `codes`.

    `origin` is the position of voxel 0 in mm, in LPS; the written affine keeps every voxel where it is.
    """
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])  # NIfTI's world is RAS
    affine[:3, 3] = -origin[0], -origin[1], origin[2]
    ornt = nib.orientations
    change = ornt.ornt_transform(ornt.axcodes2ornt("LPS"), ornt.axcodes2ornt(tuple(codes)))
    affine = affine @ ornt.inv_ornt_aff(change, array.shape)
    stored = np.ascontiguousarray(ornt.apply_orientation(array, change))
    image = nib.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    write_gz(path, image.to_bytes())


def write_metaimage(
    folder: Path,
    name: str,
    array: Array,
    *,
    spacing: Sequence[float],
    origin: Sequence[float] | Array,
    packed: bool,
    turned: bool,
) -> None:
    """Stores int16 axes L, P, S as .mhd with .zraw (`packed`) or .raw.

    `turned` stores x and y backwards, as some LUNA16 scans do (direction cosines -1 -1 1). `origin` is the position of
    voxel 0 before that, in mm.
    """
    offset, signs = np.array(origin, float), np.ones(3, int)
    if turned:
        offset[:2] += (np.array(array.shape[:2]) - 1) * np.array(spacing[:2])
        signs[:2] = -1
        array = array[::-1, ::-1]
    content = array.astype("<i2").tobytes(order="F")  # the first axis runs fastest on disk
    data = folder / f"{name}.{'zraw' if packed else 'raw'}"
    if packed:
        content = zlib.compress(content, 3)
    data.write_bytes(content)
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {packed}",
        *([f"CompressedDataSize = {len(content)}"] if packed else []),
        f"TransformMatrix = {' '.join(str(v) for v in np.diag(signs).ravel())}",
        f"Offset = {' '.join(f'{v:.10g}' for v in offset)}",
        "CenterOfRotation = 0 0 0",
        "AnatomicalOrientation = RAI",
        f"ElementSpacing = {' '.join(f'{v:.10g}' for v in spacing)}",
        f"DimSize = {' '.join(map(str, array.shape))}",
        "ElementType = MET_SHORT",
        f"ElementDataFile = {data.name}",
    ]
    (folder / f"{name}.mhd").write_text("\n".join(lines) + "\n")


def write_nrrd(path: Path, array: Array, *, spacing: Sequence[float], origin: Sequence[float] | Array) -> None:
    """Stores int16 axes L, P, S as .nrrd with gzip encoding, in a world of RAS as 3D Slicer writes for some sources."""
    directions = [(-spacing[0], 0, 0), (0, -spacing[1], 0), (0, 0, spacing[2])]
    vectors = " ".join(f"({','.join(f'{v:.10g}' for v in row)})" for row in directions)
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at: http://teem.sourceforge.net/nrrd/format.html",
        "type: short",
        "dimension: 3",
        "space: right-anterior-superior",
        f"sizes: {' '.join(map(str, array.shape))}",
        f"space directions: {vectors}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: ({-origin[0]:.10g},{-origin[1]:.10g},{origin[2]:.10g})",
    ]
    voxels = gzip.compress(array.astype("<i2").tobytes(order="F"), compresslevel=3, mtime=0)
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + voxels)
