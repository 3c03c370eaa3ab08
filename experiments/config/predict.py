"""From the words of `ssl-med predict RUN [RUN ...] IN OUT` to the runs that answer, the files and the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.config.finetuned import FinetunedRun
from experiments.config.sections import LoadingConfig
from experiments.config.sources import check_keys, data_class_of, keys_of
from ssl_med.config import COMMAND_LINE, Layer, Settings, parse_overrides
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.precision import AUTO, SINGLE, Precision, decide
from ssl_med.spec import SslMedError


@dataclass
class PredictConfig:
    """Which files are answered, and what is written of masks."""

    exclude: tuple[str, ...] = ()
    """patterns of file names or relative paths to leave out, such as segmentation-*"""

    masks: Literal["auto", "labels", "regions"] = "auto"
    """labels: one file a scan, in which a voxel holds the number of its region, of several the last; regions: one file of 0
    and 1 for each region; auto: labels where no voxel can be of two regions, else regions"""


@dataclass(frozen=True)
class Answerer:
    """A finished fine-tuning with the settings by which its data are prepared and its answers are found."""

    trained: FinetunedRun
    data_class: type[Any]
    data: Any
    task: TaskConfig


@dataclass(frozen=True)
class PredictRequest:
    """What answers what. The first run says how answers are written."""

    answerers: tuple[Answerer, ...]
    place: Path
    out: Path
    config: PredictConfig
    trainer: LoadingConfig
    precision: Precision


def compose_predict(words: Sequence[str]) -> PredictRequest:
    """`RUN [RUN ...] IN OUT [masks=regions] [trainer.KEY=VALUE ...]` -> PredictRequest.

    Raises:
        SslMedError: a word is missing or unknown, a folder is no finished fine-tuning, or the runs answer different questions.
    """
    places = [word for word in words if "=" not in word]
    if len(places) < 3:
        raise SslMedError(
            "predict: give a finished fine-tuning, its input and a folder for its answers, ssl-med predict RUN IN OUT"
        )
    *runs, place, out = places
    own = keys_of(PredictConfig)
    line = parse_overrides([word for word in words if "=" in word])
    check_keys(line, (*own, "trainer"))
    answerers = tuple(_answerer(Path(run)) for run in runs)
    first = answerers[0].trained
    for other in (one.trained for one in answerers[1:]):
        _check_same(first, other)
    settings = Settings.merged([Layer(COMMAND_LINE, {"trainer": {"precision": _precision(first)}}), line])
    trainer = settings.section("trainer").build(LoadingConfig, prefix="trainer")
    config = settings.top(own).build(PredictConfig, prefix="")
    if config.masks != "auto" and first.spec.target != "mask":
        raise SslMedError(
            f"masks={config.masks}: {first.folder} answers with probabilities, not with masks; leave it out"
        )
    return PredictRequest(
        answerers, Path(place), Path(out), config, trainer, decide(trainer.precision, accelerator=trainer.accelerator)
    )


def _answerer(folder: Path) -> Answerer:
    trained = FinetunedRun.read(folder)
    settings = Settings.merged([Layer(str(folder), trained.settings)])
    data_class = data_class_of(trained.run.data)
    return Answerer(
        trained,
        data_class,
        settings.section("data").build(data_class.Config, prefix="data"),
        settings.section("task").build(TaskConfig, prefix="task"),
    )


def _precision(trained: FinetunedRun) -> str:
    """Arithmetic of the run where it was plain; half precision where this machine has units for it."""
    return SINGLE if str(trained.settings["trainer"]["precision"]) == SINGLE else AUTO


def _check_same(first: FinetunedRun, other: FinetunedRun) -> None:
    """Refuses an ensemble of runs whose answers mean different things."""
    pairs = {
        "classes": (first.spec.class_names, other.spec.class_names),
        "kind of labels": (first.spec.target, other.spec.target),
        "dimensions": (first.spec.spatial_dims, other.spec.spatial_dims),
        "channels": (first.spec.channel_names, other.spec.channel_names),
        "exclusive regions": (first.spec.exclusive, other.spec.exclusive),
    }
    for what, (mine, theirs) in pairs.items():
        if mine != theirs:
            raise SslMedError(
                f"{other.folder}: its {what}, {theirs}, are not those of {first.folder}, {mine}; an ensemble is of one task"
            )
