"""A trained task on another data set: which of the classes correspond to each other, and the metrics of those alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ssl_med.evaluation.tasks import Row, Task, task_class
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.spec import Batch, DataSpec, SslMedError, Target

Uncertain = Literal["ignore", "zeros", "ones"]
# whole numbers of a row, which a table reads as floats
_LABEL = ("label", "lesion", "lesions", "scan", "subject", "silent_scans", "silent_lesions")
_ELSEWHERE = -1  # label of a case whose class is not mapped


@dataclass(frozen=True)
class ClassMap:
    """Trained class -> classes of the other data set, any of which counts as it.

    * uncertain: what a finding of the other set that is neither present nor absent counts as; ignore leaves it out.
    """

    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    uncertain: Uncertain = "ignore"

    def __post_init__(self) -> None:
        if self.uncertain not in get_args(Uncertain):
            raise SslMedError(f"uncertain is '{self.uncertain}'; it must be one of {', '.join(get_args(Uncertain))}")


@dataclass(frozen=True)
class Mapped:
    """A `ClassMap` that fits its two data sets.

    * spec: the trained run's, with the mapped classes alone; target is "multilabel" where classes meet findings, each
      class then against the rest.
    * columns: of each mapped class, its number among the trained ones.
    * sources: of each mapped class, the numbers of the other set's classes that count as it.
    * trained, external: classes that are not mapped.
    """

    spec: DataSpec
    other: DataSpec
    columns: tuple[int, ...]
    sources: tuple[tuple[int, ...], ...]
    uncertain: Uncertain
    trained: tuple[str, ...]
    external: tuple[str, ...]

    def batch(self, batch: Batch) -> Batch:
        """A batch of the other set with labels of the mapped classes; -1 for a class that is not mapped."""
        if "mask" in batch:
            mask = batch["mask"]
            return {**batch, "mask": torch.stack([mask[:, list(k)].amax(1) for k in self.sources], 1)}
        label = batch["label"]
        if self.spec.target == "class":
            numbers = label.new_full((len(self.other.class_names),), _ELSEWHERE)
            for number, source in enumerate(self.sources):
                numbers[list(source)] = number
            return {**batch, "label": numbers[label]}
        if self.other.target == "class":
            label = torch.nn.functional.one_hot(label, len(self.other.class_names)).float()
        if self.uncertain != "ignore":
            label = label.nan_to_num(float(self.uncertain == "ones"))
        return {**batch, "label": torch.stack([_any(label[:, list(k)]) for k in self.sources], 1)}

    def logits(self, logits: Tensor, target: Target) -> Tensor:
        """Logits of the trained classes (B, K, ...) -> those of the mapped ones; `target` is the trained one."""
        if target == "class" and self.spec.target == "multilabel":
            # the sigmoid of these is the softmax of those
            rest = torch.stack(
                [logits[:, [j for j in range(logits.shape[1]) if j != k]].logsumexp(1) for k in self.columns], 1
            )
            return logits[:, list(self.columns)] - rest
        return logits[:, list(self.columns)]

    def rows(self, rows: Sequence[Mapping[str, Any]], trained: DataSpec) -> list[Row]:
        """Test cases of the trained run, as its table holds them, scored by the mapped classes alone."""
        names = self.spec.class_names
        if self.spec.target == "mask":
            return [self._regions(row, trained) for row in rows]
        if trained.target == "multilabel":
            kept = {f"{kind}/{name}" for kind in ("label", "score") for name in names}
            return [{key: value for key, value in _whole(row).items() if _own(key) or key in kept} for row in rows]
        found = []
        for row in map(_whole, rows):
            score = {name: float(row[f"score/{name}"]) for name in names}
            rest = {key: value for key, value in row.items() if not key.startswith("score/")}
            if self.spec.target == "multilabel":
                truth = {f"label/{name}": int(row["label"] == k) for name, k in zip(names, self.columns, strict=True)}
                del rest["label"]
                found.append(rest | truth | {f"score/{name}": value for name, value in score.items()})
            elif row["label"] in self.columns:
                total = sum(score.values())
                rest["label"] = self.columns.index(row["label"])
                # all of them may be 0 to the last digit
                shares = {name: value / total if total else 1 / len(names) for name, value in score.items()}
                found.append(rest | {f"score/{name}": value for name, value in shares.items()})
        return found

    def _regions(self, row: Mapping[str, Any], trained: DataSpec) -> Row:
        """Values of the mapped regions, and their mean where a value is one of all regions."""
        names, dropped = self.spec.class_names, tuple(f"/{name}" for name in self.trained)
        found = {key: value for key, value in _whole(row).items() if not key.endswith(dropped)}
        if self.trained:
            for key in [key for key in found if not _own(key) and f"{key}/{names[0]}" in row]:
                found[key] = float(np.mean([float(row[f"{key}/{name}"]) for name in names]))
        if len(names) == 1:  # with one region, Dice alone is reported by region
            found = {key: value for key, value in found.items() if key == f"dice/{names[0]}" or "/" not in key}
        return found

    def notes(self) -> list[str]:
        """What the map leaves out, and what counts as what, in words."""
        classes, others = self.spec.class_names, self.other.class_names
        pairs = [
            f"{name} = {' or '.join(others[k] for k in k_)}" for name, k_ in zip(classes, self.sources, strict=True)
        ]
        notes = [f"map: {'; '.join(pairs)}"]
        if self.trained:
            notes.append(f"trained classes that are not mapped: {', '.join(self.trained)}")
        if self.external:
            notes.append(f"external classes that are not mapped: {', '.join(self.external)}")
        if self.spec.target == "class" and self.trained:
            notes.append("probabilities are those of the mapped classes alone, which sum to 1")
        if self.spec.target == "multilabel" and self.other.target == "multilabel":
            words = {"ignore": "is left out of its finding", "zeros": "counts as absent", "ones": "counts as present"}
            notes.append(f"an uncertain external label {words[self.uncertain]}")
        return notes


def fit(classes: ClassMap, trained: DataSpec, other: DataSpec) -> Mapped:
    """Checks a map against the two data sets.

    Raises:
        SslMedError: a class that one of them does not have, no class at all, masks against classes, one class of two for
            a task of classes, or an external class that counts as two of them.
    """
    if (trained.target == "mask") != (other.target == "mask"):
        kinds = {"mask": "masks", "class": "classes", "multilabel": "findings"}
        raise SslMedError(
            f"the run was trained on {kinds[trained.target]}, '{other.name}' has {kinds[other.target]}; "
            "one cannot be tested on the other"
        )
    target: Target = trained.target if trained.target == other.target else "multilabel"
    for name, sources in classes.classes.items():
        _known(name, trained.class_names, f"map.{name}: the run was not trained on '{name}'")
        if not sources:
            raise SslMedError(f"map.{name} names no class of '{other.name}'; leave it out or name one")
        for source in sources:
            _known(source, other.class_names, f"map.{name}: '{other.name}' has no class '{source}'")
    columns = tuple(k for k, name in enumerate(trained.class_names) if name in classes.classes)
    if not columns:
        raise SslMedError(
            f"map: no class of the run ({', '.join(trained.class_names)}) stands for one of '{other.name}' "
            f"({', '.join(other.class_names)}); say which, map.CLASS=CLASS"
        )
    names = tuple(trained.class_names[k] for k in columns)
    used = [source for name in names for source in dict.fromkeys(classes.classes[name])]
    if target == "class":
        if len(names) < 2:
            raise SslMedError(
                f"map: only {names[0]} is mapped; a task of classes needs two, name another map.CLASS=CLASS"
            )
        twice = [source for source in used if used.count(source) > 1]
        if twice:
            raise SslMedError(f"map: '{twice[0]}' counts as two classes of the run; classes exclude each other")
    return Mapped(
        spec=replace(trained, target=target, class_names=names),
        other=other,
        columns=columns,
        sources=tuple(tuple(map(other.class_names.index, dict.fromkeys(classes.classes[name]))) for name in names),
        uncertain=classes.uncertain,
        trained=tuple(name for name in trained.class_names if name not in names),
        external=tuple(name for name in other.class_names if name not in used),
    )


class External(Task):
    """A trained task whose answers are scored by mapped classes; nothing of it is trained any more."""

    def __init__(self, trained: Task, mapped: Mapped, backbone: Backbone, decoder: Decoder | None) -> None:
        super().__init__(trained.config, mapped.spec)
        self.trained, self.mapped = trained, mapped
        self.scorer = task_class(mapped.spec)(replace(trained.config, loss="auto"), mapped.spec, backbone, decoder)
        self.metric, self.needs_decoder = self.scorer.metric, trained.needs_decoder

    def logits(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:  # noqa: D102
        return self._mapped(self.trained.logits(image, backbone, decoder))

    def predict(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:  # noqa: D102
        return self._mapped(self.trained.predict(image, backbone, decoder))

    def _mapped(self, logits: Tensor) -> Tensor:
        return self.mapped.logits(self.trained.answers(logits), self.trained.spec.target)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """nan: an external test has no use for a loss."""
        return logits.new_full((), math.nan)

    def rows(self, logits: Tensor, batch: Batch) -> list[Row]:  # noqa: D102
        return self.scorer.rows(logits, self.mapped.batch(batch))

    def test_rows(self, logits: Tensor, batch: Batch) -> list[Row]:  # noqa: D102
        return self.scorer.test_rows(logits, self.mapped.batch(batch))

    def goodness(self, row: Row) -> float:  # noqa: D102
        return self.scorer.goodness(row)

    @torch.no_grad()
    def picture(self, logits: Tensor, batch: Batch) -> dict[str, np.ndarray]:  # noqa: D102
        return self.scorer.picture(logits, self.mapped.batch(batch))

    def summarize(self, rows: list[Row]) -> dict[str, float]:
        """Metrics over the cases whose class is mapped.

        Raises:
            SslMedError: there is none.
        """
        counted = self.counted(rows)
        if not counted:
            raise SslMedError("map: no external case has a mapped class")
        return self.scorer.summarize(counted)

    @staticmethod
    def counted(rows: list[Row]) -> list[Row]:
        """The rows whose class is mapped."""
        return [row for row in rows if row.get("label") != _ELSEWHERE]


def _any(labels: Tensor) -> Tensor:
    """(B, n) findings of 0, 1 and nan -> (B,) 1 where one is present, nan where that is not known, else 0."""
    present = (labels >= 0.5).any(1)
    unknown = labels.isnan().any(1) & ~present
    return present.float().masked_fill(unknown, math.nan)


def _own(key: str) -> bool:
    """Keys of a row that are no values."""
    return key == "case" or key in _LABEL


def _whole(row: Mapping[str, Any]) -> Row:
    return {key: int(value) if key in _LABEL else value for key, value in row.items()}


def _known(name: str, names: Sequence[str], complaint: str) -> None:
    if name not in names:
        raise SslMedError(f"{complaint}; there are: {', '.join(names)}")
