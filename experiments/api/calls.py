"""`ssl_med.pretrain(...)` and its like: one function per command, with the command line's names, defaults and errors.

Every further keyword is a setting of that command: a dictionary is a section (`trainer={"max_steps": 20}`), and dotted keys are
given as `**{"trainer.max_steps": 20}`. A wrong request is a `ssl_med.spec.SslMedError` (a ValueError) of one line, raised
before any work starts.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.api.overrides import overrides_of
from experiments.api.result import Result
from experiments.config import defaults, files, usage

Folder = str | os.PathLike[str]
Section = Mapping[str, Any]


def pretrain(
    method: str | Section,
    data: str | Section | None = None,
    *,
    init: Result | Folder = "scratch",
    root: Folder | None = None,
    out: Folder | None = None,
    trainer: str | Section | None = None,
    seed: int | None = None,
    **settings: Any,
) -> Result:
    """Pretrains a backbone by one method on one data set, without labels; continues or returns a run that is there already.

    Args:
        method: name of a method or preset, see `list_methods`; with settings: {"name": "moco", "temperature": 0.1}.
        data: name of the data set; by default that of the method's paper, or the nearest public one.
        init: weights to start from: a pretraining or its folder, whose teacher and heads go on where it was of the same method,
            a backbone file, or a file of weights from elsewhere (`family="torchvision"` says whose).
        root: folder of the data set, as it is distributed; by default what SSL_MED_DATA says, else synthetic phantoms.
        out: run folder; by default runs/pretrain/<name>-<hash of the settings>.
        trainer: name of a preset ("cpu": a laptop's), settings of the training, or both: {"name": "cpu", "max_steps": 20}.
            By default "cpu" on a machine without a GPU.
        seed: of initial weights, batches and views.
        settings: of the sections method, data, backbone, optim, trainer, tracking, transfer and online.

    Returns:
        The run; `result.network()` is the encoder, `result` itself goes to `finetune(init=result)`.

    Raises:
        SslMedError: the request is wrong.

    Example:
        ssl_med.pretrain("simclr", "chest14", root=DIR, trainer={"name": "cpu", "max_steps": 20}, out="runs/first")
    """
    given = {
        "method": method,
        "data": data,
        "init": None if init == "scratch" else _path(init),
        "data.root": _path(root),
        "trainer": trainer,
        "seed": seed,
        "out": _path(out),
    }
    return _run("pretrain", {**given, **settings})


def finetune(
    task: str | Section,
    *,
    init: Result | Folder = "scratch",
    root: Folder | None = None,
    out: Folder | None = None,
    labels: Section | None = None,
    trainer: str | Section | None = None,
    seed: int | None = None,
    **settings: Any,
) -> Result:
    """Trains a task on labels from pretrained or random weights, and tests it once on the best validation weights.

    Args:
        task: name of a task.
        init: a pretraining, its folder, a backbone file, or "scratch".
        root: folder of the task's data set.
        out: run folder.
        labels: label budget: {"fraction": 0.1} or {"shots": 5}.
        trainer: as in `pretrain`.
        seed: of the head's weights, batches and the label budget.
        settings: of the sections task, data, backbone, optim, trainer, tracking, labels and transfer.

    Returns:
        The run; `result.metrics["test/dice"]` and its like, `result.network()` the tested network.

    Raises:
        SslMedError: the request is wrong, or the pretraining saw subjects of the test part.
    """
    given = {"task": task, "init": _path(init), "data.root": _path(root), "labels": labels, "trainer": trainer}
    return _run("finetune", {**given, "seed": seed, "out": _path(out), **settings})


def probe(
    task: str | Section | None = None,
    *,
    protocol: str,
    data: str | Section | None = None,
    init: Result | Folder = "scratch",
    root: Folder | None = None,
    out: Folder | None = None,
    seed: int | None = None,
    **settings: Any,
) -> Result:
    """Measures what a frozen encoder knows; nothing of it is trained.

    Args:
        task: name of a task; the pretext protocols take `data` instead.
        protocol: linear, knn, fewshot, or without labels pretext_rotation, pretext_position.
        data: name of a data set, for pretext protocols.
        init: a pretraining, its folder, a backbone file, or "scratch".
        root: folder of the data set.
        out: run folder.
        seed: of the label budget and of random weights.
        settings: of the sections probe, task, data, backbone, trainer, labels and transfer.

    Returns:
        The run, with `result.metrics`.

    Raises:
        SslMedError: the request is wrong.
    """
    given = {"task": task, "protocol": protocol, "data": data, "init": _path(init), "data.root": _path(root)}
    return _run("probe", {**given, "seed": seed, "out": _path(out), **settings})


def external(
    run: Result | Folder,
    *,
    task: str,
    map: str | Section = "same",
    root: Folder | None = None,
    out: Folder | None = None,
    **settings: Any,
) -> Result:
    """Tests a finished fine-tuning on another data set, without training.

    Args:
        run: the fine-tuning or its folder.
        task: whose data it is tested on.
        map: which class corresponds to which: a named map, "same", or {"Effusion": "Pleural Effusion"}.
        root: folder of that data set.
        out: run folder.
        settings: of the sections data, task, trainer and tracking, and `part`.

    Returns:
        The run, with metrics in and out of domain.

    Raises:
        SslMedError: the request is wrong, or the training saw subjects of this test.
    """
    given = {"task": task, "map": map, "data.root": _path(root), "out": _path(out), **settings}
    return _run("external", given, os.fspath(run))


def compare(
    table: str,
    *,
    roots: Mapping[str, Folder] | None = None,
    scale: str | None = None,
    out: Folder | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    report: bool = False,
    **settings: Any,
) -> Result:
    """Carries out or continues a declared comparison, and writes its report.

    Args:
        table: name of a table, or a yaml file.
        roots: folder of each data set that the table names.
        scale: "full" or "small".
        out: folder of the comparison.
        jobs: runs at a time.
        dry_run: measure how long it will take, and stop.
        report: only report what is there.
        settings: every key of the table, and those of the launcher.

    Returns:
        The folder of the comparison.

    Raises:
        SslMedError: the table or a run of it is wrong.
    """
    flags = [flag for flag, asked in (("--dry-run", dry_run), ("--report", report)) if asked]
    folders = {name: _path(folder) for name, folder in (roots or {}).items()}
    given = {"table": table, "root": folders, "scale": scale, "out": _path(out), "jobs": jobs, **settings}
    return _run("compare", given, *flags)


def report(*runs: Result | Folder, out: Folder | None = None) -> Result:
    """Writes report.html, report.md and results.csv of runs.

    Args:
        runs: runs, or folders that are searched for them; none: `runs`.
        out: folder of the report; by default `report`.

    Returns:
        The folder of the report.

    Raises:
        SslMedError: a folder does not exist or holds no run.
    """
    return _run("report", {"out": _path(out)}, *[os.fspath(run) for run in runs])


def list_methods() -> list[str]:
    """Names of the pretraining methods; `method/preset` names a variant."""
    from experiments.config.sources import names, presets

    return sorted([*names("method"), *presets()])


def _run(command: str, settings: Mapping[str, Any], *words: str) -> Result:
    """The command's own function on its overrides, checked and completed as on the command line."""
    about = usage.command(command)
    given = files.with_files(command, [*words, *overrides_of(settings)], list(about.sections))
    given = defaults.complete(about, given, usage.check(about, given))
    path = Path(getattr(importlib.import_module(f"{usage.COMMANDS}.{command}"), command)(given))
    return Result(path if path.is_dir() else path.parent)


def _path(value: Result | Folder | None) -> str | None:
    return None if value is None else os.fspath(value)
