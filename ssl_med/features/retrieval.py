"""Which images a network takes for the most alike: nearest neighbours by cosine, from other patients, and whether labels agree.

Papers: Jégou et al., "Product quantization for nearest neighbor search", TPAMI 33, 2011 (recall@k); Taleb et al., "3D
self-supervised methods for medical imaging", NeurIPS 2020, and Pai et al., "Vision foundation models for computed tomography",
2025 (retrieval as a look at medical features).

Every image asks for its nearest ones by the cosine of pooled features, among the images of other patients; a scan is the mean
of its crops. An answer is right where classes are equal or, of findings, where one is shared, or neither image has any.

- recall@k: share of images with a right answer among the first k.
- precision@k: share of right answers among the first k, the mean over images; `chance` is that of a random order.

Images for which there is no right answer count in neither, and are told.

Where we deviate: features are centred first (`features.center=false` leaves that out). Those behind a ReLU have a large mean in
common, and all cosines are near 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.evaluation.features import Features
from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.drawing import Tile, planes, tiles
from ssl_med.features.core.images import Images
from ssl_med.ranges import LARGEST, Count, Level, Natural, Range
from ssl_med.reports.style import COLORS
from ssl_med.spec import DataSpec, SslMedError

_ROWS = 1024  # images whose similarities to all others are held at once
_RIGHT, _WRONG = COLORS[2], COLORS[1]


@dataclass
class RetrievalConfig:
    """How many neighbours are asked for, and what is shown."""

    level: Level = -1
    """level of the pyramid, 0 the finest, -1 the last"""
    center: bool = True
    """subtract the mean over all images from the features"""
    at: tuple[Count, ...] = (1, 5, 10)
    """numbers of neighbours k at which recall and precision are taken"""
    queries: Natural = 6
    """images in the gallery, evenly spaced among all; 0: no gallery"""
    neighbours: Annotated[int, Range(1, 20)] = 5
    """neighbours of each in the gallery"""
    min_images: Annotated[int, Range(4, LARGEST)] = 8
    """fewest images"""

    def __post_init__(self) -> None:
        if not self.at or len(set(self.at)) < len(self.at):
            raise SslMedError("features.at needs different numbers of neighbours, such as features.at=[1,5,10]")


class Retrieval(Analysis):
    """Nearest neighbours from other patients: recall and precision by label, and a gallery."""

    Config = RetrievalConfig
    config: RetrievalConfig
    paper = "Jégou et al. 2011; Taleb et al. 2020; Pai et al. 2025"
    labels = "optional"

    def measure(self, images: Images) -> Findings:
        """Numbers `recall@K`, `precision@K`, `chance` with labels, and `similarity`, the mean cosine of the first neighbour."""
        config, found = self.config, images.all_features((self.config.level,))
        scans = Scans.of(found, images.subjects)
        count, subject = len(scans.names), scans.subject
        if count < config.min_images:
            raise SslMedError(
                f"kind=retrieval needs {config.min_images} images or more, there are {count}; raise images.cases"
            )
        others = count - int(torch.bincount(subject).max())
        if others < 1:
            raise SslMedError("kind=retrieval needs images of two patients or more; raise images.cases")
        most = min(max(*config.at, config.neighbours), others)
        near, cosine = neighbours(scans.x - scans.x.mean(0) if config.center else scans.x, subject, most)
        numbers = {"images": float(count), "similarity": float(cosine[:, 0].mean())}
        rows: list[dict[str, Any]] = [
            {"case": case, "neighbour": scans.names[int(first)], "similarity": float(value)}
            for case, first, value in zip(scans.names, near[:, 0], cosine[:, 0], strict=True)
        ]
        notes = []
        if others < max(config.at):
            notes.append(
                f"an image has {others} of other patients at least, so that nothing is known beyond k={others}"
            )
        arrays: dict[str, np.ndarray] = {}
        headline = "similarity"
        right = None
        if images.spec.target != "none":
            marks = marked(images.spec, scans.label)
            right = agree(marks, near)
            answers = answerable(marks, subject)
            asked = answers > 0
            numbers["chance"] = float((answers / (count - torch.bincount(subject)[subject]))[asked].mean())
            for k in (k for k in config.at if k <= most):
                hits = right[asked, :k].double()
                numbers |= {f"recall@{k}": float(hits.amax(1).mean()), f"precision@{k}": float(hits.mean())}
            headline = f"precision@{min(config.at)}"
            if not asked.all():
                notes.append(
                    f"{int((~asked).sum())} images have no right answer among other patients, and do not count"
                )
            for k, row in enumerate(rows):
                row |= {"label": words(images.spec, scans.label[k]), "right": int(right[k, 0]) if asked[k] else ""}
        if config.queries:
            arrays = self._gallery(images, scans, near, cosine, right)
        arrays["others"] = near.numpy()
        return Findings(numbers, headline, rows, arrays, notes)

    def _gallery(
        self, images: Images, scans: Scans, near: Tensor, cosine: Tensor, right: Tensor | None
    ) -> dict[str, np.ndarray]:
        asked = np.unique(np.linspace(0, len(near) - 1, self.config.queries).round().astype(int))
        shown = [[int(k), *near[k, : self.config.neighbours].tolist()] for k in asked]
        sample = {k: scans.middle[k] for row in shown for k in row}
        pixels = images.pictures(set(sample.values()))
        arrays = {
            f"image{k}": next(iter(planes(pixels[number]).values())).astype(np.float32) for k, number in sample.items()
        }
        arrays |= {"gallery": np.array(shown), "cosine": cosine[asked, : self.config.neighbours].numpy()}
        if right is not None:
            arrays["right"] = right[asked, : self.config.neighbours].numpy().astype(np.uint8)
        return arrays

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """For each network a gallery: an image, and beside it what the network takes for the most alike."""
        drawings = []
        for number, (name, findings) in enumerate(found.items()):
            arrays = findings.arrays
            if "gallery" not in arrays:
                continue
            grid = []
            for row, line in enumerate(arrays["gallery"]):
                asked = findings.rows[line[0]]
                labelled = "label" in asked
                grid.append([Tile(arrays[f"image{line[0]}"], text=str(asked.get("label", "")))])
                for place, other in enumerate(line[1:]):
                    label = str(findings.rows[other].get("label", ""))
                    color = (_RIGHT if arrays["right"][row, place] else _WRONG) if labelled else ""
                    text = f"{arrays['cosine'][row, place]:.2f} {label}"
                    grid[-1].append(Tile(arrays[f"image{other}"], text=text, frame=color))
            heads = ["image", *(f"neighbour {k + 1}" for k in range(arrays["gallery"].shape[1] - 1))]
            names = [str(findings.rows[line[0]]["case"]) for line in arrays["gallery"]]
            caption = "Beside each image those of other patients whose features are nearest, with their cosine."
            if "right" in arrays:
                caption += " Green frame: the labels agree; orange: they do not."
            stem = "retrieval" if len(found) == 1 else f"retrieval_{number}"
            figure = tiles(grid, names=names, heads=heads)
            drawings.append(Drawing(stem, f"nearest neighbours by {name}", figure, f"{name}. {caption}"))
        return drawings


@dataclass(frozen=True)
class Scans:
    """What is looked for: images, or scans as the mean features of their crops, which share its name.

    names, x (N, D), subject (N,), label (N,) or (N, K) of each, and the number of the sample in the middle of each.
    """

    names: list[str]
    x: Tensor
    subject: Tensor
    label: Tensor
    middle: list[int]

    @classmethod
    def of(cls, found: Features, subjects: Sequence[int]) -> Scans:
        """Of the features of all samples and the subject of each."""
        samples: dict[tuple[str, int], list[int]] = {}
        for number, key in enumerate(zip(found.ids, subjects, strict=True)):
            samples.setdefault(key, []).append(number)
        crops = list(samples.values())
        x = torch.stack([found.x[own].double().mean(0) for own in crops])
        subject = torch.tensor([number for _, number in samples])
        label = found.label[[own[0] for own in crops]]
        return cls([name for name, _ in samples], x, subject, label, [own[len(own) // 2] for own in crops])


def neighbours(features: Tensor, subject: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The images of other subjects that are nearest by cosine, nearest first.

    Args:
        features: (N, D).
        subject: (N,) int64, number of each image's subject.
        count: how many, at most the images of other subjects.

    Returns:
        Numbers (N, count) int64 and cosines (N, count) float32. Of equal ones that of the smaller number comes first.
    """
    x = F.normalize(features.double(), dim=1)
    numbers, values = [], []
    for start in range(0, len(x), _ROWS):
        cosine = x[start : start + _ROWS] @ x.T
        cosine[subject[start : start + _ROWS, None] == subject[None]] = -torch.inf
        order = cosine.argsort(dim=1, descending=True, stable=True)[:, :count]
        numbers.append(order)
        values.append(cosine.gather(1, order).float())
    return torch.cat(numbers), torch.cat(values)


def marked(spec: DataSpec, label: Tensor) -> Tensor:
    """What two images must share for their labels to agree, (N, M) float32 of 0 and 1.

    Classes, or findings and a last mark of images that are known to have none; an image whose labels are unknown has no mark.
    """
    if spec.target == "class":
        return F.one_hot(label, len(spec.class_names)).float()
    healthy = (label == 0).all(1, keepdim=True)
    return torch.cat([label == 1, healthy], 1).float()


def agree(marks: Tensor, near: Tensor) -> Tensor:
    """(N, k) bool: whether the labels of an image and of each of its neighbours agree."""
    found: Tensor = torch.einsum("nm,nkm->nk", marks, marks[near]) > 0
    return found


def answerable(marks: Tensor, subject: Tensor) -> Tensor:
    """(N,) float64: number of images of other subjects that are right answers to each."""
    found = []
    for start in range(0, len(marks), _ROWS):
        right = marks[start : start + _ROWS] @ marks.T > 0
        right &= subject[start : start + _ROWS, None] != subject[None]
        found.append(right.double().sum(1))
    return torch.cat(found)


def words(spec: DataSpec, label: Tensor) -> str:
    """The label of one image for people: its class, its findings, or "no finding"."""
    if spec.target == "class":
        return str(spec.class_names[int(label)])
    present = [name for name, value in zip(spec.class_names, label.tolist(), strict=True) if value == 1]
    return ", ".join(present) or ("no finding" if bool((label == 0).all()) else "not known")
