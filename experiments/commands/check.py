"""`ssl-med check`: read every file of a data set once and say what is wrong, before a training finds out."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.core.base import MedicalData
from datamodules.core.quarantine import quarantine_line
from datamodules.doctor.examine import Checkup, examine
from datamodules.doctor.findings import KINDS, Finding
from datamodules.doctor.inspect import thumbnail
from datamodules.doctor.source import Source
from experiments.config.data import compose_check, compose_source
from experiments.run.environment import say
from ssl_med.files import write_text
from ssl_med.ledger import salted
from ssl_med.reports.checkup import Picture, write_checkup
from ssl_med.reports.writing import write_json
from ssl_med.spec import SslMedError
from ssl_med.values import unquoted

USAGE = "ssl-med check data=NAME data.root=DIR [use=pretrain|finetune] [with=NAME:DIR ...] [out=DIR] [workers=N]"
EXAMPLES = (
    "ssl-med check data=lits data.root=/data/LiTS use=pretrain",
    "ssl-med check data=lits data.root=/data/LiTS with=msd:/data/Task03_Liver out=runs/check/lits",
)
NAMES = ("data", "with")
REQUIRED = ("data",)
SETTINGS = {"": "experiments.config.data:CheckConfig", "data": "datamodules.{data}:Config"}
DEFAULTS = ("root",)

QUARANTINE = "quarantine.txt"
# training, or the reader, says itself what is wrong
_SENTENCES = ("unreadable", "refused", "unusable", "empty", "split", "split_labelled", "table")
_SAID = 5  # sentences of a class that the terminal shows
_PICTURED = 12  # findings of a class that the report shows


def check(overrides: Sequence[str]) -> int:
    """`data=NAME data.root=DIR [use=pretrain] [with=NAME:DIR ...] [out=DIR]`; 1 when the data holds an error, else 0."""
    config, data_class, data = compose_check([override for override in overrides if not override.startswith("with=")])
    others: list[tuple[str, type[MedicalData], Any]] = []
    for override in overrides:
        if override.startswith("with="):
            name, colon, root = unquoted(override.removeprefix("with=")).partition(":")
            if not colon or not root:
                raise SslMedError(f"command line: '{override}' is not of the form with=NAME:DIR")
            again = sum(other[0].partition(" ")[0] == name for other in others)
            others.append((f"{name} {again + 1}" if again else name, *compose_source(name, root)))
    default = Path("runs") / "check" / f"{data.name}-{salted(str(Path(data.root).resolve()))[:8]}"
    out = Path(config.out) if config.out else default
    checkup = examine(data_class, data, use=config.use, others=others, workers=config.workers, progress=_Progress())
    report = report_of(checkup)
    write_json(out / "report.json", report)
    page = write_checkup(out, report, _pictures(checkup))
    write_text(out / QUARANTINE, quarantine_text(checkup))
    _tell(checkup, page)
    return 0 if checkup.clean else 1


def report_of(checkup: Checkup) -> dict[str, Any]:
    """Content of report.json; files by public name or salted hash."""
    source = checkup.source
    seen = source.inspections.values()
    kinds = {
        kind: {**about._asdict(), "count": len(checkup.of_kind(kind))}
        for kind, about in KINDS.items()
        if checkup.of_kind(kind)
    }
    return {
        "format": 1,
        "data": source.name,
        "root": f"path-{salted(str(source.root.resolve()))[:12]}",
        "files": {"images": sum(not one.mask for one in seen), "masks": sum(one.mask for one in seen)},
        "use": source.use,
        "usable": source.usable,
        "of": source.total,
        "cases": len(source.cases),
        "subjects": len({case.subject for case in source.cases}),
        "with": [other.name for other in checkup.others],
        "seconds": round(checkup.seconds, 1),
        "clean": checkup.clean,
        "kinds": kinds,
        "findings": [
            {
                "kind": finding.kind,
                "severity": finding.severity,
                "id": source.public_id(finding.path),
                "detail": _detail(source, finding),
                "other": _other(checkup, finding).public_id(finding.other) if finding.other else "",
                "also_in": finding.also_in,
            }
            for finding in checkup.findings
        ],
    }


def _detail(source: Source, finding: Finding) -> str:
    """What was seen; where training says it in a sentence, that sentence without names."""
    if finding.kind not in _SENTENCES or not finding.local:
        return finding.detail
    said = finding.local.removeprefix(f"{source.root / finding.path}: ")
    return _one_line(source.shown(said, finding.path))


def _sentence(source: Source, finding: Finding) -> str:
    """What was said of a file, with its name where it was left out."""
    place, said = str(source.root / finding.path), finding.local or finding.detail
    return said if not finding.path or place in said else f"{place}: {said}"


def quarantine_text(checkup: Checkup) -> str:
    """What data.quarantine reads: errors as lines, everything else as comments, with the names that the report uses."""
    lines = [
        "# Made by ssl-med check. One line a file: path relative to data.root, tab, reason. Remove the lines of files that",
        "# you repaired; add data.quarantine=THIS_FILE to leave the others out. It names files: keep it with the data.",
    ]
    for entry in checkup.quarantine():
        name = checkup.source.public_id(entry.path)
        lines.append(quarantine_line(entry._replace(reason=f"{entry.reason} [{name}]")))
    lines += ["#", "# All findings, for the eye:"]
    for finding in checkup.findings:
        about = "; ".join(text for text in (finding.detail, finding.other, finding.also_in, finding.local) if text)
        lines.append(
            f"# {finding.severity} {finding.kind}: {_one_line(finding.path)}"
            + (f" ({_one_line(about)})" if about else "")
        )
    return "\n".join(lines) + "\n"


def _pictures(checkup: Checkup) -> dict[str, list[Picture]]:
    pictures: dict[str, list[Picture]] = {}
    for kind in KINDS:
        shown = []
        for finding in checkup.of_kind(kind)[:_PICTURED] if KINDS[kind].severity != "info" else []:
            sides = [(checkup.source, finding.path)]
            if finding.other:
                sides.append((_other(checkup, finding), finding.other))
            for source, path in sides:
                png = thumbnail(str(source.root), path) if path in source.inspections else b""
                if png:
                    shown.append((source.public_id(path), png))
        pictures[kind] = shown
    return pictures


def _other(checkup: Checkup, finding: Finding) -> Source:
    """The data set that the second file of a finding belongs to."""
    return next((one for one in checkup.others if one.name == finding.also_in), checkup.source)


def _tell(checkup: Checkup, page: Path) -> None:
    """One line a class, worst first."""
    source = checkup.source
    for kind, about in KINDS.items():
        found = checkup.of_kind(kind)
        if found and kind in _SENTENCES:
            for finding in found[:_SAID]:
                say(f"{about.severity:8}{about.title}: {_one_line(_sentence(source, finding))}")
            if len(found) > _SAID:
                say(f"{about.severity:8}{about.title}: {len(found) - _SAID} more, listed in {page.parent / QUARANTINE}")
        elif found:
            first = found[0]
            place = source.root / first.path if first.kind != "absent" else Path(first.path)
            seen = f" ({first.detail})" if first.detail else ""
            say(f"{about.severity:8}{about.title}: {len(found)}; first {_one_line(str(place))}{seen}; {about.remedy}")
    count = len(source.inspections)
    say(f"{count} images and masks read in {checkup.seconds:.1f} s ({count / max(checkup.seconds, 1e-9):.0f} a second)")
    say(f"report: {page}")
    entries = checkup.quarantine()
    if entries:
        share = 1 - source.usable / max(source.total, 1)
        wide = share <= source.data.config.quarantine_budget
        more = "" if wide else f" data.quarantine_budget={math.ceil(100 * share) / 100:g}"
        say(f"{len(entries)} files could be left out: data.quarantine={page.parent / QUARANTINE}{more}")
    elif checkup.clean:
        say("no error found")
    say(f"usable: {source.usable} of {source.total} cases (use={source.use})")


def _one_line(text: str) -> str:
    return " ".join(text.split()).encode(errors="backslashreplace").decode()  # names of files may be no UTF-8


class _Progress:
    """A bar for each thing that is done, with rate and time left."""

    def __init__(self) -> None:
        self.what = ""
        self.bar: tqdm[Any] | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.bar is None or self.what != what:
            self.what = what
            self.bar = tqdm(
                total=total,
                desc=what,
                dynamic_ncols=True,
                mininterval=0.5 if sys.stderr.isatty() else 60,
                disable=os.environ.get("SSL_MED_QUIET") == "1",
            )
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar.close()


def run(arguments: Sequence[str]) -> int:
    """Carries out the command; 1 when the data holds an error."""
    return check(arguments)
