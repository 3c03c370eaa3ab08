"""Who took part in a pretraining, as salted hashes, and whether a task's held-out subjects are among them.

Two kinds of keys. A subject's key hashes its identity: the data set and the id within it, so that patient 1 of LiTS is not
patient 1 of ChestX-ray14; a DICOM uid is one of a kind in the world and is hashed alone, so that a LIDC series is recognised
as LUNA16 too. A volume's key hashes bytes of its file (`file_key`), so that a copy is recognised under any name and in
any folder. Neither sees the same scan in another encoding: that is what `ssl-med check ... with=...` looks for.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from ssl_med.reading import UnreadableError, mismatch
from ssl_med.spec import SslMedError

_REMEDY = {"pretraining": "pretrain with the same data.split and data.split_seed, test on other subjects"}
_SAMPLE = 16384  # bytes at the start, in the middle and at the end of a file


def salted(text: str | bytes) -> str:
    """A salted hash of a text, 16 hex digits.

    The salt comes from the environment variable SSL_MED_SALT. Ids with few possible values can be guessed by anybody who knows
    the salt, so a hospital should set its own; keys made under different salts cannot be compared.
    """
    key = os.environ.get("SSL_MED_SALT", "ssl_med").encode()
    return hmac.new(
        key, text.encode(errors="surrogateescape") if isinstance(text, str) else text, hashlib.sha256
    ).hexdigest()[:16]


def file_key(path: str | Path) -> str:
    """Key of a file's content: its size and three samples of 16 KiB, so that 10,000 scans take seconds, not hours.

    Images are noise in their last digits: equal samples of equal files mean equal content in practice. A folder (DICOM
    series) has the key of its files. Recompressed or resaved files have other keys.

    Raises:
        SslMedError: the file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return salted(
            "".join(sorted(file_key(part) for part in path.iterdir() if part.is_file() and part.name[0] != "."))
        )
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            content = size.to_bytes(8, "little")
            starts = [0, (size - _SAMPLE) // 2, size - _SAMPLE] if size > 3 * _SAMPLE else range(0, size, _SAMPLE)
            for start in starts:
                file.seek(start)
                content += file.read(_SAMPLE)
    except OSError as error:
        raise SslMedError(f"{path}: cannot be read ({error.strerror})") from None
    return salted(content)


def file_keys(paths: Iterable[str | Path]) -> frozenset[str]:
    """Keys of many files; reading waits for the disk, so several at a time."""
    with ThreadPoolExecutor(8) as pool:
        return frozenset(pool.map(file_key, paths))


@dataclass(frozen=True)
class Members:
    """Keys of the subjects and volumes of one part of a data set."""

    subjects: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, identities: Iterable[str], files: Iterable[str | Path]) -> Members:
        """From identities in clear and the files that hold the images."""
        return cls(frozenset(map(salted, identities)), file_keys(files))

    def __or__(self, other: Members) -> Members:
        return Members(self.subjects | other.subjects, self.volumes | other.volumes)

    def __and__(self, other: Members) -> Members:
        return Members(self.subjects & other.subjects, self.volumes & other.volumes)

    def __bool__(self) -> bool:
        return bool(self.subjects or self.volumes)


class _Part(TypedDict):
    subjects: list[str]
    volumes: list[str]


class _Tree(TypedDict):
    salt: str
    parts: dict[str, _Part]


@dataclass(frozen=True)
class Ledger:
    """Members by part ("train", "val", "test"), and a mark of the salt under which they were made."""

    parts: Mapping[str, Members] = field(default_factory=dict)
    salt: str = field(default_factory=lambda: salted("salt"))

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        parts = {
            name: {"subjects": sorted(members.subjects), "volumes": sorted(members.volumes)}
            for name, members in self.parts.items()
        }
        return {"salt": self.salt, "parts": parts}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Ledger:
        """Inverse of `to_dict`.

        Raises:
            UnreadableError: the tree has other keys or types.
        """
        if wrong := mismatch(_Tree, tree):
            raise UnreadableError(wrong)
        parts = {
            name: Members(frozenset(keys["subjects"]), frozenset(keys["volumes"]))
            for name, keys in tree["parts"].items()
        }
        return cls(parts, tree["salt"])

    def joined(self, before: Ledger) -> Ledger:
        """And who was trained or validated on before, under the same salt."""
        parts = dict(self.parts)
        for name in ("train", "val"):
            parts[name] = parts.get(name, Members()) | before.parts.get(name, Members())
        return Ledger(parts, self.salt)

    def card_fields(self) -> dict[str, Any]:
        """As `ssl_med.checkpoint.Card` holds it."""
        everyone, trained = Members(), self.parts.get("train", Members())
        for members in self.parts.values():
            everyone |= members
        validated = (everyone.subjects - trained.subjects) | (everyone.volumes - trained.volumes)
        fields = {"subjects": everyone.subjects, "volumes": everyone.volumes, "validated": validated}
        return {**{key: tuple(sorted(keys)) for key, keys in fields.items()}, "salt": self.salt}


@dataclass(frozen=True)
class Leakage:
    """Outcome of a comparison, as summary.json holds it.

    * status: "none"; "allowed" when there is overlap and the user wants it; "unknown" when there is nothing to compare.
    * subjects, volumes: how many of each held-out part took part in the pretraining.
    * by: what they took part in, where it is not the pretraining.
    """

    status: str
    subjects: Mapping[str, int] = field(default_factory=dict)
    volumes: Mapping[str, int] = field(default_factory=dict)
    why: str = ""
    by: str = "pretraining"

    def __str__(self) -> str:
        if self.status == "unknown":
            return f"overlap of {self.by} and test was not checked: {self.why}"
        if self.status == "none":
            return f"no subject and no file of validation and test took part in the {self.by}"
        found = [
            f"{self.subjects[part]} subjects and {self.volumes[part]} files of the {part} part"
            for part in self.subjects
            if self.subjects[part] or self.volumes[part]
        ]
        return f"the {self.by} saw {' and '.join(found)}"


def compare(pretrained: Ledger | None, task: Ledger, *, allow: bool, by: str = "pretraining") -> Leakage:
    """Whether the pretraining, or what `by` names, saw what the task validates or tests on.

    Nothing of the test part may have taken part in any way. The validation part may not have been trained on; that the
    pretraining validated on it too does no harm, since neither validation makes a test result.

    Raises:
        SslMedError: there is overlap and `allow` is off.
    """
    if pretrained is None:
        return Leakage("unknown", why="the backbone file names no subjects", by=by)
    if pretrained.salt != task.salt:
        return Leakage("unknown", why=f"the {by} was recorded under another SSL_MED_SALT", by=by)
    trained = pretrained.parts.get("train", Members())
    seen = {"val": trained, "test": trained | pretrained.parts.get("val", Members())}
    found = {part: task.parts.get(part, Members()) & members for part, members in seen.items()}
    if not any(found.values()):
        return Leakage("none", by=by)
    leakage = Leakage(
        "allowed",
        {part: len(members.subjects) for part, members in found.items()},
        {part: len(members.volumes) for part, members in found.items()},
        by=by,
    )
    if not allow:
        raise SslMedError(
            f"leak: {leakage}, so its results would be too good; {_REMEDY.get(by, 'test on other subjects')}, or set "
            "data.allow_overlap=true, which every report then says"
        )
    return leakage
