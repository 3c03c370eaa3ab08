"""Files that torch wrote, read as tensors and plain containers: never code, and never more than the file holds."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from ssl_med.reading import UnreadableError
from ssl_med.spec import first_line

_FACTOR = 2  # torch stores its records uncompressed; a file that unpacks to more than this was not written by it


def read_torch(path: Path) -> Any:
    """What a .ckpt, .pt or .pth file holds, on the CPU.

    Raises:
        UnreadableError: no such file, damaged, compressed, or it would run code when it is read.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(record.file_size for record in archive.infolist())
            if unpacked > _FACTOR * path.stat().st_size:
                raise UnreadableError(f"would unpack to {unpacked} bytes, which torch never writes")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnreadableError:
        raise
    except pickle.UnpicklingError:
        raise UnreadableError(
            "would run code when it is read; load it where you trust it and save its state_dict() alone"
        ) from None
    except IsADirectoryError:
        raise UnreadableError("is a folder, not a file") from None
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error})") from None
    except Exception as error:  # torch has no family of errors for damaged files
        raise UnreadableError(f"is not a readable file of weights ({first_line(error)[:120]})") from None
