"""The one walk below data.root: every family and `ssl-med check` find their files by it, so that they find the same ones.

Hidden files (also ._name, which macOS leaves beside name in an archive) and the folders of archives, file servers and recycle
bins are passed over. Links are followed; what several paths lead to is found once, by the path without a link where there is
one. A link to nothing, a pipe where a file is meant, and a folder that cannot be opened are refused: they may stand for half
of a data set.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from datamodules.core.dicom import holds_series
from datamodules.core.readers import VOLUME_ENDINGS
from ssl_med.spec import SslMedError

JUNK = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information"})
_PATHS = 64  # by which one folder may be reached: links among many folders make more paths than anybody can read


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as it was reached. `real`: its path without links; `linked`: a link led here; `broken`: to nothing.

    `special`: a pipe, a socket or a device, which would be waited for and never be read to an end.
    """

    path: Path
    real: str
    linked: bool = False
    broken: bool = False
    special: bool = False


@dataclass(frozen=True, slots=True)
class FoundFolder:
    """A folder as it was reached, and the files directly in it, by name."""

    path: Path
    real: str
    linked: bool
    files: tuple[FoundFile, ...]


def visible(name: str) -> bool:
    """Whether a file or folder of this name is looked at."""
    return not name.startswith(".") and name not in JUNK


def walk(root: Path) -> list[FoundFolder]:
    """All folders from the root down; a link to a folder that holds it is not followed.

    Raises:
        SslMedError: a folder cannot be opened, or is linked from too many places.
    """
    found: list[FoundFolder] = []
    reached: Counter[str] = Counter()
    todo: list[tuple[Path, str, bool, tuple[str, ...]]] = [(Path(root), os.path.realpath(root), False, ())]
    while todo:
        path, real, linked, above = todo.pop()
        reached[real] += 1
        if reached[real] > _PATHS:
            raise SslMedError(f"{path}: more than {_PATHS} ways lead to this folder; remove links below {root}")
        files, inner = [], []
        for entry in _entries(path):
            link = entry.is_symlink()
            target = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)
            if _is(entry, os.DirEntry.is_dir):
                if not any(_within(folder, target) for folder in (*above, real)):
                    inner.append((path / entry.name, target, linked or link, (*above, real)))
            elif _is(entry, os.DirEntry.is_file):
                files.append(FoundFile(path / entry.name, target, linked or link))
            elif link and not os.path.exists(target) and target != os.path.join(real, entry.name):
                files.append(FoundFile(path / entry.name, target, True, broken=True))
            elif os.path.exists(target):
                files.append(FoundFile(path / entry.name, target, linked or link, special=True))
        todo += reversed(inner)
        found.append(FoundFolder(path, real, linked, tuple(files)))
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if visible(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise SslMedError(
            f"{folder}: cannot be opened ({error.strerror}); make it readable or move it out of the data set"
        ) from None


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link to itself
        return False


def _within(folder: str, top: str) -> bool:
    return folder == top or folder.startswith(top.rstrip(os.sep) + os.sep)


def find_files(
    root: Path,
    wanted: Callable[[Path], object],
    *,
    left_out: Callable[[Path], bool] = lambda path: False,
    prefer: Callable[[Path], object] = lambda path: True,
) -> list[Path]:
    """Files that are `wanted`, each once, sorted by path.

    Args:
        root: where to begin.
        wanted: whether a file belongs to the data set, mostly by its name.
        left_out: whether the user leaves a path out, so that a link to nothing there is passed over.
        prefer: which of several paths of one file stands for it, before the one without a link: where folders say what a
            file is, the one that says it.

    Raises:
        SslMedError: as `walk`; a link to nothing that is wanted, or has no ending and so may have been a folder.
    """
    return _files_of(walk(root), wanted, left_out=left_out, prefer=prefer)


def _files_of(
    folders: list[FoundFolder],
    wanted: Callable[[Path], object],
    *,
    left_out: Callable[[Path], bool],
    prefer: Callable[[Path], object],
) -> list[Path]:
    found: dict[str, tuple[bool, bool, Path]] = {}
    for folder in folders:
        for file in folder.files:
            if file.broken or file.special:
                refuse_unreadable(file, wanted, left_out)
            elif wanted(file.path):
                mine = (not prefer(file.path), file.linked, file.path)
                found[file.real] = min(mine, found.get(file.real, mine))
    return sorted(path for _, _, path in found.values())


def refuse_unreadable(file: FoundFile, wanted: Callable[[Path], object], left_out: Callable[[Path], bool]) -> None:
    """Raises `SslMedError` for a link to nothing, or what is no file, that the data set may need."""
    if left_out(file.path):
        return
    if file.broken and (wanted(file.path) or not file.path.suffix):
        raise SslMedError(
            f"{file.path}: is a link to {file.real}, which is not there; bring that back, or remove the link"
        )
    if file.special and wanted(file.path):
        raise SslMedError(f"{file.path}: is a pipe, a socket or a device, no file; remove it, or give it another name")


def find_volumes(
    root: Path,
    *,
    left_out: Callable[[Path], bool] = lambda path: False,
    prefer: Callable[[Path], object] = lambda path: True,
) -> list[Path]:
    """Volume files and folders that hold a DICOM series, each once, sorted; the root may be one.

    Raises:
        SslMedError: as `find_files`.
    """
    folders = walk(root)
    series: dict[str, tuple[bool, bool, Path]] = {}
    for folder in folders:
        if holds_series(str(folder.path), [file.path.name for file in folder.files]):
            mine = (not prefer(folder.path), folder.linked, folder.path)
            series[folder.real] = min(mine, series.get(folder.real, mine))
    files = _files_of(
        folders, lambda path: path.name.lower().endswith(VOLUME_ENDINGS), left_out=left_out, prefer=prefer
    )
    return sorted([*files, *(path for _, _, path in series.values())])


def spelled(name: str) -> str:
    """A file name as tables are matched with the disk: one form of accented letters, the ending in lower case.

    macOS takes accented letters apart (NFD), tables mostly hold them in one piece (NFC).
    """
    name = unicodedata.normalize("NFC", name)
    ending = ".nii.gz" if name.lower().endswith(".nii.gz") else os.path.splitext(name)[1].lower()
    return name[: len(name) - len(ending)] + ending


def below(root: Path, holds: Callable[[Path], bool]) -> Path:
    """Where a layout begins: the root, or the only folder in it that has it, as archives leave it (LUNA16/LUNA16/...).

    Args:
        root: data.root.
        holds: whether the layout begins at a folder.

    Returns:
        The root where it holds the layout, or where nothing does.
    """
    place = root
    for _ in range(3):
        if holds(place):
            return place
        try:
            inner = [entry for entry in _entries(place) if _is(entry, os.DirEntry.is_dir)]
        except SslMedError:
            break
        if len(inner) != 1:
            break
        place = place / inner[0].name
    return place if holds(place) else root


CHANNEL = re.compile(r"(.+)_(\d{4})")  # CASE_0001: the second channel of a case, as nnU-Net names its files


def channel_files(names: Iterable[str]) -> dict[str, str]:
    """File -> case where files are channels in nnU-Net's names: several cases, each with the channels 0000 to at most 0007."""
    numbers: dict[str, list[int]] = {}
    for name in sorted(names):
        if match := CHANNEL.fullmatch(name):
            numbers.setdefault(match[1], []).append(int(match[2]))
    cases = {case for case, found in numbers.items() if 1 < len(found) <= 8 and found == list(range(len(found)))}
    if len(cases) < 2:
        return {}  # numbered scans of one series
    return {f"{case}_{number:04d}": case for case in cases for number in numbers[case]}


def stem(path: Path) -> str:
    """File name without the ending of its format; the whole name of a folder."""
    if path.is_dir():
        return path.name
    ending = max((e for e in VOLUME_ENDINGS if path.name.lower().endswith(e)), key=len, default="")
    return path.name[: len(path.name) - len(ending)]
