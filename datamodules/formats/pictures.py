"""Images and photographs by PIL."""

from __future__ import annotations

import numpy as np
from PIL import Image

from datamodules.formats.grids import Array
from ssl_med.spec import SslMedError


def read_image2d(path: str) -> Array:
    """Grey levels (rows, columns), uint8, or uint16 for 16-bit files; colour is reduced to luminance."""
    return _read_image(path, "L")


def read_color(path: str) -> Array:
    """Red, green and blue (3, rows, columns) uint8; a grey file has three equal channels, transparency is dropped."""
    return np.ascontiguousarray(_read_image(path, "RGB").transpose(2, 0, 1))


def _read_image(path: str, mode: str) -> Array:
    try:
        with Image.open(path) as image:
            keep = image.mode == mode or (mode == "L" and image.mode.startswith("I;16"))
            array: Array = np.asarray(image if keep else image.convert(mode))
    except FileNotFoundError:
        raise SslMedError(f"{path}: no such file") from None
    # PIL raises SyntaxError for a broken PNG chunk, and the bomb for a header that claims more than 178 megapixels
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SslMedError(f"{path}: cannot be read as an image ({error}); download it again") from None
    return array
