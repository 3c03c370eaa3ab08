"""Files that a comparison keeps beside its runs, read back: what was planned, what failed, what was declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from ssl_med.reading import UnreadableError, mismatch, read_json
from ssl_med.spec import SslMedError


class Progress(TypedDict, total=False):
    """progress.json."""

    failed: dict[str, str]


class Measured(TypedDict, total=False):
    """One kind of run in plan.json."""

    kind: list[str]
    memory_mb: float
    seconds: float


class Prediction(TypedDict):
    """plan.json."""

    kinds: list[Measured]


def read_record(path: Path, hint: Any) -> dict[str, Any]:
    """What one of these files holds; {} without the file.

    Raises:
        SslMedError: it cannot be read, or holds something else.
    """
    if not path.exists():
        return {}
    try:
        tree: dict[str, Any] = read_json(path)
        if wrong := mismatch(hint, tree, path.stem):
            raise UnreadableError(wrong)
    except UnreadableError as error:
        raise SslMedError(f"{path}: {error}; remove the file, it is written anew") from None
    return tree
