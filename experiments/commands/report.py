"""`ssl-med report`: write report.html, report.md, table.tex and results.csv of run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.run.environment import say
from ssl_med.reports.page import report_runs
from ssl_med.spec import SslMedError
from ssl_med.values import unquoted

USAGE = "ssl-med report [RUNS ...] [out=DIR]"
EXAMPLES = ("ssl-med report runs", "ssl-med report runs/pretrain runs/finetune out=report")


def report(overrides: Sequence[str]) -> Path:
    """`RUNS... [out=DIR]`; folders are searched for runs."""
    folders = [Path(override) for override in overrides if not override.startswith("out=")]
    places = [override.removeprefix("out=") for override in overrides if override.startswith("out=")]
    if len(places) > 1:
        raise SslMedError("command line: 'out' is given twice")
    for folder in folders:
        if not folder.is_dir():
            raise SslMedError(f"{folder}: no such folder of runs")
    out = Path(unquoted(*places) if places else "report")
    page = report_runs(folders or [Path("runs")], out)
    say(f"report: {page}")
    return page


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    report(arguments)
