"""Files that torch wrote, read as tensors and plain containers: never code, and never more than the file holds."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_med.reading import UnreadableError, check_content
from ssl_med.spec import first_line
from ssl_med.weights.core.archives import check_archive

_FACTOR = 2  # torch stores its records uncompressed; a file that unpacks to more than this was not written by it
# plain values that training scripts store beside their tensors; numpy's scalars were at `numpy.core` before numpy 2
_SCALAR = np.float32(0).__reduce__()[0]
_PLAIN: list[Any] = [argparse.Namespace, np.dtype, _SCALAR, (_SCALAR, "numpy.core.multiarray.scalar")]
_PLAIN += [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")]


class PickledCodeError(UnreadableError):
    """A file would run code when it is read; `needs` is the dotted name of what it pickles, "" where that is unknown."""

    def __init__(self, needs: str) -> None:
        named = f" ({needs})" if needs else ""
        super().__init__(
            f"would run code when it is read{named}; load it where you trust it and save its state_dict() alone"
        )
        self.needs = needs


def read_torch(path: Path) -> Any:
    """What a file of torch holds, on the CPU: tensors, plain containers, numbers, text and the arguments of a command line.

    Raises:
        UnreadableError: no such file, damaged or compressed.
        PickledCodeError: it would run code when it is read.
    """
    try:
        check_content(path)
        archive = check_archive(path, factor=_FACTOR)
        with torch.serialization.safe_globals(_PLAIN), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a protocol of pickles that is refused, or read
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnreadableError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None and not archive and not _begins_as_pickle(path):
            raise UnreadableError("is no file that torch wrote; copy or download it again") from None
        raise PickledCodeError(named[1] if named else "") from None
    except IsADirectoryError:
        raise UnreadableError("is a folder, not a file") from None
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error})") from None
    except Exception as error:  # torch has no family of errors for damaged files
        raise UnreadableError(f"is not a readable file of weights ({first_line(error)[:120]})") from None


def _begins_as_pickle(path: Path) -> bool:
    """Whether a file says its protocol as pickles since Python 2.3 do, which torch's own do too."""
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == pickle.PROTO and head[1:] <= bytes([pickle.HIGHEST_PROTOCOL])
