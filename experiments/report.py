"""`ssl-med report`: run folders -> report.html, report.md, results.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.facts import say
from ssl_med.config import parse_words
from ssl_med.reports.html import build_report
from ssl_med.spec import SslMedError


def report(words: Sequence[str]) -> Path:
    """`RUNS... [out=DIR]`; folders are searched for runs."""
    folders = [Path(word) for word in words if not word.startswith("out=")]
    line = parse_words([word for word in words if word.startswith("out=")])
    for folder in folders:
        if not folder.is_dir():
            raise SslMedError(f"{folder}: no such folder of runs")
    out = Path(line.tree.get("out", "report"))
    page = build_report(folders or [Path("runs")], out)
    say(f"report: {page}")
    return page
