"""`ssl-med embed`: features of all images of a data set as vectors in one file, for whoever wants these and nothing else."""

from __future__ import annotations

import csv
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config.run import compose_features
from experiments.config.showing import is_shown, show
from experiments.run.environment import say
from experiments.run.feature_analysis import analyse, read_findings
from ssl_med.files import new_file
from ssl_med.reports.escape import cell
from ssl_med.spec import SslMedError
from ssl_med.values import unquoted

USAGE = (
    "ssl-med embed init=RUN|FILE data=NAME|task=NAME out=FILE.npz|FILE.csv|FILE.parquet [data.root=DIR] [key=value ...]"
)
EXAMPLES = (
    "ssl-med embed init=RUN data=images data.root=DIR out=vectors.npz",
    "ssl-med embed init=FILE data=luna data.root=DIR features.levels=[-2,-1] images.part=test out=vectors.csv",
)
NAMES = ("task", "data", "trainer", "backbone")
SETTINGS = {
    "": "experiments.config.sections:StartConfig",
    "features": "ssl_med.features.vectors:VectorsConfig",
    "images": "experiments.config.sections:ImagesConfig",
    "task": "ssl_med.evaluation.tasks:TaskConfig",
    "data": "datamodules.{data}:Config",
    "transfer": "ssl_med.evaluation.protocols.finetune:InitConfig",
    "backbone": "ssl_med.networks.backbones.{backbone}:Config",
    "trainer": "experiments.config.sections:LoadingConfig",
    "tracking": "experiments.config.sections:TrackingConfig",
}
OPTIONS = {"--show": "print all settings and stop; --show=sources: and the file or override that set each"}
DEFAULTS = ("root", "phantoms", "trainer")

FORMATS = (".npz", ".csv", ".parquet")
KIND = "kind=vectors"
EVERY = {"images.part": "all", "images.cases": "0"}


def embed(overrides: Sequence[str]) -> Path:
    """Writes the features of images, by an analysis of its own below runs/features; returns the file.

    Raises:
        SslMedError: no file, or one of another kind; and whatever makes `ssl-med features` refuse a request.
    """
    told = unquoted(next((word.partition("=")[2] for word in overrides if word.startswith("out=")), ""))
    path = Path(told)
    if path.suffix not in FORMATS:
        raise SslMedError(f"out={told}: must be a file that ends in {', '.join(FORMATS)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise SslMedError(f"out={told}: needs pyarrow; pip install pyarrow, or write a .npz or .csv")
    config = compose_features(_asked([word for word in overrides if not word.startswith("out=")]))
    if path.suffix != ".npz" and config.features.dense:
        raise SslMedError(f"out={told}: features.dense=true are no rows of a table; write a .npz")
    _, folder = analyse(config)
    found = read_findings(folder)
    names = [str(row["case"]) for row in found.rows]
    with new_file(path) as file:
        _write(file, path.suffix, names, found.arrays["x"], found.arrays.get("label"))
    say(f"{len(names)} images, {found.arrays['x'].shape[1:]} numbers each -> {path}")
    return path


def _asked(overrides: Sequence[str]) -> list[str]:
    """The overrides of the analysis: all images, unless some are asked for."""
    given = {word.partition("=")[0] for word in overrides}
    return [KIND, *(f"{key}={value}" for key, value in EVERY.items() if key not in given), *overrides]


def _write(path: Path, suffix: str, names: list[str], x: np.ndarray, label: np.ndarray | None) -> None:
    if suffix == ".npz":
        more: dict[str, Any] = {} if label is None else {"label": label}
        with path.open("wb") as file:
            np.savez_compressed(file, id=np.array(names), x=x, **more)
        return
    columns = [f"x{k}" for k in range(x.shape[1])]
    labels = None if label is None else label.reshape(len(label), -1)
    if labels is not None:
        columns = [*(f"label{k}" for k in range(labels.shape[1])), *columns]
        x = np.concatenate([labels.astype(np.float64), x], axis=1)
    if suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(["id", *columns])
            writer.writerows(
                [cell(name), *(f"{value:.7g}" for value in row)] for name, row in zip(names, x, strict=True)
            )
        return
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    parquet.write_table(arrow.table({"id": names, **{name: x[:, k] for k, name in enumerate(columns)}}), path)


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    if is_shown(arguments):
        show(_asked(arguments), compose_features)
    else:
        embed(arguments)
