"""How a folder of synthetic data says that it shows no patient."""

from __future__ import annotations

from pathlib import Path

MARKER = "PHANTOM.txt"


def is_synthetic(root: str) -> bool:
    """Whether `ssl-med phantom` wrote the folder `root`, or the one that the file `root` lies in."""
    path = Path(root)
    return bool(root) and ((path / MARKER).is_file() or (path.is_file() and (path.parent / MARKER).is_file()))
