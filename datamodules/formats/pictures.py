"""Images and photographs by PIL, with what it passes over: number types, the sense of grey, rotation, further pages."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datamodules.formats.grids import Array
from ssl_med.files import new_file
from ssl_med.spec import SslMedError, first_line

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")  # endings, in lower case
GREY_MODES = ("1", "L", "P", "I", "F")  # and I;16 in its byte orders; all others are colour or have transparency
_BITS, _PHOTOMETRIC, _FORMAT, _COMPRESSION = 258, 262, 339, 259  # TIFF 6.0 tags
_WHITE_IS_ZERO, _SIGNED = 0, 2
# bytes that one byte of a file stands for at most: stored as it is; deflate; LZW, whose longest string stands for a code;
# PackBits. JPEG, fax and the like have no useful bound, for them PIL's own (178 million pixels) holds
_EXPANDS = {"raw": 1, "zip": 1032}
_TIFF_EXPANDS = {1: 1, 5: 2600, 8: 1032, 32946: 1032, 32773: 64}


def read_image2d(path: str) -> Array:
    """Grey levels (rows, columns) as they are stored: uint8, uint16, int16, int32, uint32 or float32; colour becomes luminance.

    Levels of a file in which 0 is white are turned over, and the image is turned as its EXIF orientation says.

    Raises:
        SslMedError: no image, damaged, of several pages, larger than its file can hold, or of 16 bits a colour.
    """
    return _read(path, _grey)


def read_color(path: str) -> Array:
    """Red, green and blue (3, rows, columns) uint8; a grey file has three equal channels, transparency is dropped.

    Raises:
        SslMedError: as `read_image2d`, and for grey levels of more than 8 bits.
    """
    return np.ascontiguousarray(_read(path, _colors).transpose(2, 0, 1))


def colors_of(path: str) -> str:
    """PIL's name of a file's colours, "" for a grey one; raises as `read_image2d`."""
    return str(_read(path, lambda path, image: np.array("" if _is_grey(image) else image.mode)))


def _read(path: str, values: Callable[[str, Any], Array]) -> Array:
    try:
        content = Path(path).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PIL warns of a truncated file before it refuses it
            with Image.open(io.BytesIO(content)) as image:
                _check(path, image, len(content))
                if image.format == "PNG":
                    image.verify()  # sums of all chunks; afterwards the image cannot be decoded any more
            with Image.open(io.BytesIO(content)) as image:
                return values(path, image)
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    except SslMedError:
        raise
    except UnidentifiedImageError:
        raise SslMedError(
            f"{path}: cannot be read as an image (its format or number type is not known); download it again, or save it as "
            "PNG or TIFF of 8, 16 or 32 bits"
        ) from None
    # PIL raises SyntaxError for a broken PNG chunk, and the bomb for a header that claims more than 178 megapixels
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, EOFError, Image.DecompressionBombError) as error:
        why = first_line(error)
        raise SslMedError(f"{path}: cannot be read as an image ({why}); download it again") from None


def _check(path: str, image: Any, size: int) -> None:
    """Refuses what would be read in part, at a loss, or not at all, before the pixels are decoded."""
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":  # MPO: a JPEG with a preview behind it
        raise SslMedError(f"{path}: holds {pages} pages; one image a file is needed, split it")
    tile = image.tile[0] if image.tile else None
    raw = tile[3] if tile else ""
    raw = raw[0] if isinstance(raw, tuple) else raw
    bands = len(image.getbands())
    if isinstance(raw, str) and bands > 1 and ";16" in raw:
        raise SslMedError(f"{path}: has 16 bits a colour, of which 8 would be lost; save it with 8, or in grey")
    known = _TIFF_EXPANDS.get(image.tag_v2.get(_COMPRESSION, 1)) if image.format == "TIFF" else None
    expands = known or (_EXPANDS.get(tile[0]) if tile and image.format in ("PNG", "TIFF", "BMP") else None)
    bits = {"1": 1, "I": 32, "F": 32, "I;16": 16, "I;16B": 16, "I;16L": 16}.get(image.mode, 8 * bands)
    if isinstance(raw, str) and (";2" in raw or ";4" in raw or raw.endswith(";1")):
        bits = 1  # packed, at least one bit a pixel
    if expands and math.prod(image.size) * bits / 8 > expands * size + 4096:
        raise SslMedError(
            f"{path}: cannot be read as an image (its header asks for {image.size[0]} x {image.size[1]} pixels, which "
            f"{size} bytes cannot hold); download it again"
        )


def _is_grey(image: Any) -> bool:
    return image.mode in GREY_MODES or image.mode.startswith("I;16")


def _grey(path: str, image: Any) -> Array:
    turned = ImageOps.exif_transpose(image)
    if image.mode in ("L", "I", "F") or image.mode.startswith("I;16"):
        array: Array = np.asarray(turned)
        return _as_stored(path, image, array.astype(array.dtype.newbyteorder("="), copy=False))
    luminance: Array = np.asarray((turned.convert("RGB") if image.mode in ("P", "LAB") else turned).convert("L"))
    return luminance


def _as_stored(path: str, image: Any, array: Array) -> Array:
    """What PIL passes over in TIFF: unsigned 32-bit and signed 8-bit numbers, and 0 as white above 8 bits."""
    if image.format != "TIFF":
        return array
    tags = image.tag_v2
    bits, kind = int(tags.get(_BITS, (1,))[0]), int(tags.get(_FORMAT, (1,))[0])
    white = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.mode == "I" and bits == 32 and kind != _SIGNED:
        array = array.view(np.uint32)
    elif image.mode == "I" and bits == 16:
        array = array.astype(np.int16)
    elif image.mode == "L" and bits == 8 and kind == _SIGNED:
        array = array.view(np.int8)
    if not white or (image.mode == "L" and kind != _SIGNED):  # PIL turns unsigned 8 bits over itself
        return array
    if array.dtype.kind != "u":
        raise SslMedError(f"{path}: 0 is white in it, but its numbers have no largest one; save it with 0 as black")
    black: Array = (2**bits - 1 - array.astype(np.int64)).astype(array.dtype)
    return black


def _colors(path: str, image: Any) -> Array:
    if _is_grey(image) and image.mode not in ("1", "P") and (grey := _grey(path, image)).dtype != np.uint8:
        raise SslMedError(
            f"{path}: has grey levels of type {grey.dtype} and no colours; set data.color=false or save it in colour"
        )
    colors: Array = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return colors


def write_png(path: Path, array: Array) -> None:
    """Writes grey levels (rows, columns) uint8; the file appears whole.

    Raises:
        SslMedError: it cannot be written.
    """
    with new_file(path) as file:
        Image.fromarray(array).save(file, "PNG")
