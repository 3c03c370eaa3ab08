"""`ssl-med predict`: let a finished fine-tuning answer new files, its masks on the grid of each file."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules.core.incoming import Incoming, IncomingSet, Prepared, Reader
from datamodules.formats.nifti import write_nifti
from datamodules.formats.pictures import write_png
from experiments.config.predict import PredictRequest, compose_predict
from experiments.run.answers import answer, labels_of, masks_on_file, one_region_each
from experiments.run.environment import quiet, say
from experiments.run.machine import device_of
from experiments.run.session import prepare_process
from ssl_med.evaluation.transfer import Transfer
from ssl_med.files import new_file, remove_leftovers
from ssl_med.reading import UnreadableError, read_json
from ssl_med.reports.writing import write_json
from ssl_med.spec import DataSpec, SslMedError

USAGE = "ssl-med predict RUN [RUN ...] IN OUT [masks=labels|regions] [exclude=[PATTERN,...]] [trainer.KEY=VALUE ...]"
EXAMPLES = (
    "ssl-med predict runs/finetune/lits-scratch-1a2b3c4d new_scans/ answers/",
    "ssl-med predict RUN1 RUN2 RUN3 scan.nii.gz answers/ trainer.accelerator=cpu",
)
SETTINGS = {
    "": "experiments.config.predict:PredictConfig",
    "trainer": "experiments.config.sections:LoadingConfig accelerator precision num_workers threads progress",
}

RECORD, TABLE = "predictions.json", "predictions.csv"
_UNREAD = {
    "root": "",
    "store": "",
    "quarantine": "",
    "split": "random",
    "split_file": "",
    "split_seed": 0,
}  # of no new file


@dataclass
class Told:
    """What is to be said at the end: remarks and refusals by file."""

    remarks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def predict(words: Sequence[str]) -> Path:
    """Answers every file of IN that has no answer in OUT yet; returns OUT.

    Raises:
        SslMedError: a wrong request, or files that cannot be read: the others are answered first.
    """
    asked = compose_predict(words)
    quiet()
    prepare_process(asked.trainer, asked.precision)
    readers, of_run = _readers(asked)
    items, left_out = readers[0].find(asked.place, exclude=asked.config.exclude)
    _check_place(asked)
    device = device_of(asked.trainer.accelerator)
    modules = [one.trained.module(one.task).to(device).eval() for one in asked.answerers]
    writer = (Masks if asked.answerers[0].trained.spec.target == "mask" else Scores)(asked)
    _begin(asked, writer.meaning())
    todo = [item for item in items if not writer.has(item)]
    say(f"{len(items)} inputs below {asked.place}, {len(items) - len(todo)} answered already -> {asked.out}")
    for path in left_out:
        say(f"note: {path} is left out: exclude names it, or it is no channel of a scan")
    told = Told()
    try:
        for item, found in zip(todo, _prepared(readers, of_run, todo, asked), strict=True):
            _answer_one(found, item, modules, asked, writer, told)
    finally:  # a stopped command keeps what it has answered
        writer.close()
    for name, remarks in told.remarks.items():
        for remark in remarks:
            say(f"note: {name}: {remark}")
    if told.refused:
        first = next(iter(told.refused.values()))
        raise SslMedError(
            f"{len(told.refused)} of {len(todo)} inputs cannot be answered, the others are in {asked.out}; first: {first}"
        )
    say(f"answers: {asked.out}")
    return asked.out


def _answer_one(
    found: list[Prepared | tuple[Incoming, SslMedError]],
    item: Incoming,
    modules: Sequence[Transfer],
    asked: PredictRequest,
    writer: Masks | Scores,
    told: Told,
) -> None:
    answers: list[tuple[Tensor, Prepared]] = []
    for prepared, module in zip(found, modules, strict=True):
        if not isinstance(prepared, Prepared):
            told.refused[item.name] = str(prepared[1])
            say(f"refused: {prepared[1]}")
            return
        if prepared.remarks and item.name not in told.remarks:
            told.remarks[item.name] = prepared.remarks
        answers.append((answer(module, prepared.image[None], asked.precision.value)[0], prepared))
    writer.write(item, answers)


def _readers(asked: PredictRequest) -> tuple[list[Reader], list[int]]:
    """The different ways in which the runs prepare a file, and the one of each run."""
    keys: list[tuple[Any, Any, DataSpec]] = []
    of_run = []
    for one in asked.answerers:
        key = (one.data_class, replace(one.data, **_UNREAD), one.trained.spec)
        if key not in keys:
            keys.append(key)
        of_run.append(keys.index(key))
    return [Reader(*key) for key in keys], of_run


def _prepared(
    readers: Sequence[Reader], of_run: Sequence[int], items: Sequence[Incoming], asked: PredictRequest
) -> Iterator[list[Prepared | tuple[Incoming, SslMedError]]]:
    """Each input as every run prepares it; loader processes read ahead."""
    workers = asked.trainer.num_workers
    loaders = [
        DataLoader(IncomingSet(reader, items), batch_size=None, num_workers=workers, collate_fn=_as_is)
        for reader in readers
    ]
    bar = tqdm(
        zip(*loaders, strict=True),
        total=len(items),
        desc="predicting",
        unit="image" if readers[0].spec.spatial_dims == 2 else "scan",
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 60,
        disable=not asked.trainer.progress or os.environ.get("SSL_MED_QUIET") == "1",
    )
    for found in bar:
        yield [found[k] for k in of_run]


def _as_is(sample: Any) -> Any:
    return sample


def _check_place(asked: PredictRequest) -> None:
    inside, out = asked.place.resolve(), asked.out.resolve()
    if out == inside or out.is_relative_to(inside):
        raise SslMedError(
            f"{asked.out}: lies inside of {asked.place}, and answers would be taken for scans; choose another folder"
        )
    if out.exists() and not out.is_dir():
        raise SslMedError(f"{asked.out}: is a file; give a folder to write to")


def _begin(asked: PredictRequest, meaning: dict[str, Any]) -> None:
    """Writes who answers, or refuses a folder that holds the answers of others."""
    path = asked.out / RECORD
    runs = [
        {"run": one.trained.folder.name, "hash": one.trained.run.summary.get("hash"), "task": one.trained.run.task,
         "synthetic": bool(one.trained.run.summary.get("synthetic"))}
        for one in asked.answerers
    ]  # fmt: skip
    record = {"runs": runs, **meaning}
    if path.is_file():
        try:
            known = read_json(path)
        except UnreadableError as error:
            raise SslMedError(f"{path}: {error}; remove the folder, or choose another") from None
        if known != record:
            raise SslMedError(
                f"{asked.out}: holds the answers of other runs or settings; choose another folder, or remove it"
            )
        remove_leftovers(asked.out)
    elif asked.out.is_dir() and any(asked.out.iterdir()):
        raise SslMedError(f"{asked.out}: is not empty and holds no {RECORD}; choose another folder")
    asked.out.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


class Masks:
    """A label map, or a file for each region, on the grid of the input: NIfTI for volumes, PNG for images."""

    def __init__(self, asked: PredictRequest) -> None:
        self.out, self.spec = asked.out, asked.answerers[0].trained.spec
        chosen = asked.config.masks
        self.each = chosen == "regions" or (chosen == "auto" and not one_region_each(self.spec))
        self.ending = ".png" if self.spec.spatial_dims == 2 else ".nii.gz"
        self.white = self.spec.spatial_dims == 2 and (self.each or len(self.spec.class_names) == 1)  # 255, to be seen

    def meaning(self) -> dict[str, Any]:
        """What the numbers in the files say."""
        names = self.spec.class_names
        if self.each:
            return {"regions": {name: f"<case>_{_plain(name)}{self.ending}" for name in names}}
        return {"labels": {"background": 0, **{name: 255 if self.white else k for k, name in enumerate(names, 1)}}}

    def files(self, item: Incoming) -> list[Path]:
        """What is written of an input."""
        names = [f"_{_plain(name)}" for name in self.spec.class_names] if self.each else [""]
        return [self.out / f"{item.name}{name}{self.ending}" for name in names]

    def has(self, item: Incoming) -> bool:
        """Whether all of it is there; files appear whole or not at all."""
        return all(path.is_file() for path in self.files(item))

    def write(self, item: Incoming, answers: Sequence[tuple[Tensor, Prepared]]) -> None:
        """Brings answers back to the file's grid, part by part, and writes them."""
        placement, paths = answers[0][1].placement, self.files(item)
        assert placement is not None
        masks = np.zeros((len(paths), *placement.shape), np.uint8)
        for part, regions in masks_on_file(answers):
            masks[..., part] = regions if self.each else labels_of(regions)
        for path, mask in zip(paths, masks, strict=True):
            self._save(path, mask, answers[0][1])

    def _save(self, path: Path, mask: np.ndarray, prepared: Prepared) -> None:
        if prepared.grid is None:
            write_png(path, mask * np.uint8(255) if self.white else mask)
        else:
            write_nifti(path, mask, prepared.grid.to_world)

    def close(self) -> None:
        """Nothing is left to be written."""


class Scores:
    """One row an input: its name, its file, the probability of each class or finding, and the likeliest class."""

    def __init__(self, asked: PredictRequest) -> None:
        self.spec, self.path = asked.answerers[0].trained.spec, asked.out / TABLE
        self.columns = ["case", "file", *self.spec.class_names, *(["answer"] if self.spec.target == "class" else [])]
        self.rows: dict[str, dict[str, str]] = {}
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                rows = csv.DictReader(file)
                if rows.fieldnames != self.columns:
                    raise SslMedError(f"{self.path}: its columns are not {', '.join(self.columns)}; remove the file")
                self.rows = {row["case"]: row for row in rows}

    def meaning(self) -> dict[str, Any]:
        """What the columns say."""
        kind = "of one class, of sum 1" if self.spec.target == "class" else "of each finding"
        return {"table": TABLE, "columns": self.columns, "probabilities": kind}

    def has(self, item: Incoming) -> bool:
        """Whether there is a row."""
        return item.name in self.rows

    def write(self, item: Incoming, answers: Sequence[tuple[Tensor, Prepared]]) -> None:
        """Several runs answer by the mean of their probabilities."""
        scores = torch.stack([found for found, _ in answers]).cpu().double().mean(0).tolist()
        names = self.spec.class_names
        row = {
            "case": item.name,
            "file": item.files[0],
            **{name: f"{x:.6f}" for name, x in zip(names, scores, strict=True)},
        }
        if self.spec.target == "class":
            row["answer"] = names[int(np.argmax(scores))]
        self.rows[item.name] = row
        if len(self.rows) % 256 == 0:  # the whole table each time, so that a stopped command leaves whole rows
            self.close()

    def close(self) -> None:
        """Writes the table."""
        with (
            new_file(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows[name] for name in sorted(self.rows))


def _plain(name: str) -> str:
    """A region's name as a part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    predict(arguments)
