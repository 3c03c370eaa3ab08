"""What can be wrong, how bad it is, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from datamodules.core.quarantine import Entry

Severity = Literal["error", "warning", "info"]


class Kind(NamedTuple):
    """A class of findings: its weight, what it is called, and the remedy."""

    severity: Severity
    title: str
    remedy: str


KINDS: dict[str, Kind] = {
    "unreadable": Kind("error", "cannot be read", "do what the reason says, or copy or download the file again"),
    "truncated": Kind("error", "truncated or damaged", "copy or download the file again"),
    "dimensions": Kind("error", "not one 3D volume", "split the file into volumes"),
    "nan": Kind("error", "NaN or infinite voxels", "repair the file or leave it out"),
    "constant": Kind("error", "every voxel has one value", "export the image again or leave it out"),
    "geometry": Kind("error", "wrong or missing voxel size", "repair the header's voxel size and affine"),
    "labels": Kind("error", "label values out of range", "repair the mask or leave the case out"),
    "mask_shape": Kind("error", "mask and image differ in shape", "export the mask on the grid of its image"),
    "channels": Kind("error", "channels of a case lie on different grids", "resample them to one grid"),
    "refused": Kind("error", "does not fit the layout", "complete the case or leave it out"),
    "unusable": Kind("error", "training cannot use it", "do what the reason says, or leave the case out"),
    "empty": Kind("error", "no case was found", "point data.root at the folder of the data set"),
    "duplicate": Kind("error", "the same voxels under another id", "keep one of the two"),
    "near": Kind("error", "nearly the same image under another id", "look at both, keep one"),
    "straddling": Kind("error", "a subject on both sides of a split", "repair the lists"),
    "split": Kind("error", "data.split cannot be made", "repair the lists or choose another data.split"),
    "absent": Kind("error", "named in a table, not on disk", "complete the download or leave it out"),
    "table": Kind("error", "a table cannot be used", "repair the table"),
    "unused": Kind("warning", "at fault, but no case of this use needs it", "nothing, or remove the file"),
    "split_labelled": Kind("warning", "too little to fine-tune on", "add labelled subjects; pretraining works"),
    "unread_table": Kind("warning", "a table cannot be read", "nothing, if it is not one of the data set"),
    "straddling_unused": Kind(
        "warning", "a subject on both sides of lists that data.split does not use", "repair the lists"
    ),
    "orientation": Kind("warning", "the header gives no orientation", "set sform or qform with its code"),
    "forms": Kind("warning", "sform and qform disagree", "find out which is right; the sform is used"),
    "units": Kind("warning", "lengths are not in mm", "nothing, if the unit is right: they are turned into mm"),
    "size": Kind("warning", "the header gives no voxel size", "add it to the header; 1 mm is taken"),
    "shear": Kind(
        "warning", "axes are not at right angles", "resample the scan if that matters; sizes are along the axes"
    ),
    "mask_geometry": Kind("error", "mask and image differ in position", "resample the mask, or correct its header"),
    "repeated": Kind("warning", "the same voxels twice in one subject", "keep one of the two"),
    "near_unsure": Kind("warning", "nearly the same image; subjects are not known", "look at both"),
    "duplicate_across": Kind(
        "warning", "the same voxels in another data set", "do not train on one and test on the other"
    ),
    "near_across": Kind("warning", "nearly the same image in another data set", "look at both"),
    "unlisted": Kind("warning", "on disk, in no table", "is the table complete?"),
    "unknown_id": Kind("warning", "id of a table without a file", "is the download complete?"),
    "empty_mask": Kind("info", "mask without a label", "right when the case shows none"),
    "oblique": Kind("info", "axes are turned against the patient's", "nothing: they are read as the nearest axes"),
    "left_handed": Kind("info", "left-handed voxel axes", "nothing: axes are flipped when reading"),
    "color": Kind("info", "colour image", "nothing: families of grey images read its luminance"),
}


@dataclass(frozen=True)
class Finding:
    """One fault of one file.

    * path: relative to the root, '/' between folders; never leaves this machine.
    * detail: numbers, fit to be shared. * local: what was said about it, maybe with names of files.
    * other: the second file of a pair, relative to the root of `also_in`, a data set's name ("" for the same one).
    """

    kind: str
    path: str
    detail: str = ""
    local: str = ""
    other: str = ""
    also_in: str = ""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity


_ROW = re.compile(r"(.+\.npz)#(\w+_images)/(\d+)", re.IGNORECASE | re.DOTALL)


def row_of(path: str) -> tuple[str, int] | None:
    """(array, row) of a path FILE.npz#ARRAY/ROW; None for a file of its own, whose name may hold a '#'."""
    match = _ROW.fullmatch(path)
    return (match[2], int(match[3])) if match else None


def file_of(path: str) -> str:
    """The file of a path, which may be a row of an .npz."""
    match = _ROW.fullmatch(path)
    return match[1] if match else path


_UNCURED = ("straddling", "split", "table", "empty")  # leaving a file out does not help


def quarantine_of(findings: Iterable[Finding]) -> list[Entry]:
    """Files with errors that leaving them out would cure, one entry each."""
    entries: dict[str, str] = {}
    for finding in findings:
        if finding.severity == "error" and finding.kind not in _UNCURED and finding.path != ".":
            row = row_of(finding.path)  # of an .npz: known by the name of its case
            path = f"{row[0].removesuffix('_images')}/{row[1]}" if row else finding.path
            entries.setdefault(path, f"{finding.kind}: {finding.detail or KINDS[finding.kind].title}")
    return [Entry(path, reason) for path, reason in sorted(entries.items())]
