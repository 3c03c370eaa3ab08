"""NIfTI by nibabel."""

from __future__ import annotations

import zlib
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from datamodules.formats.grids import Array, Header, Volume, check_grid, spatial_shape
from ssl_med.spec import SslMedError, first_line

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def open_nifti(path: str) -> Any:
    """The image of nibabel, its voxels not read yet."""
    try:
        return nib.load(path)
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise SslMedError(f"{path}: is no readable NIfTI file ({first_line(error)}); copy it again") from None


def nifti_header(path: str) -> Header:
    """Grid of a volume."""
    image = open_nifti(path)
    return Header(spatial_shape(path, image.shape), nifti_grid(path, image))


def read_nifti(path: str) -> Volume:
    """Decodes a volume, scale factors applied."""
    image = open_nifti(path)
    if image.get_data_dtype().kind not in "iuf":
        raise SslMedError(
            f"{path}: holds {image.get_data_dtype()} values; one number a voxel is needed (no RGB, no phase)"
        )
    shape, to_world = spatial_shape(path, image.shape), nifti_grid(path, image)
    return Volume(nifti_voxels(path, image).reshape(shape), to_world)


def nifti_grid(path: str, image: Any) -> Array:
    """`to_world` of an open image."""
    return check_grid(path, _RAS_TO_LPS @ image.affine)


def nifti_voxels(path: str, image: Any) -> Array:
    """Voxels of an open image in its own shape, scale factors applied."""
    try:
        array: Array = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        why = first_line(error)
        raise SslMedError(f"{path}: is truncated or damaged ({why}); copy or download it again") from None
    return array
