"""What each level of an encoder knows of the labels: the linear probe, level by level.

Paper: Alain and Bengio, "Understanding intermediate layers using linear classifier probes", ICLR 2017 workshop.

The probe is that of `ssl_med/evaluation/protocols/linear.py` (Anton et al. 2022): logistic regression on pooled features, its
L2 value chosen on the validation part, tested on the images that are looked at. `joined` takes all levels together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from ssl_med.evaluation.features import Features
from ssl_med.evaluation.protocols.core.contract import PARTS, Result, scored
from ssl_med.evaluation.protocols.linear import LinearConfig, chosen_and_fitted
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.drawing import curves
from ssl_med.features.core.images import Images
from ssl_med.networks.pyramid import Backbone
from ssl_med.ranges import Count, Range
from ssl_med.setting import setting

_BESIDE = ("balanced_accuracy", "accuracy")  # told beside the headline of the task


@dataclass
class ProbeDepthConfig:
    """Logistic regression, as `ssl-med probe protocol=linear` has it."""

    strengths: Annotated[int, Range(1, 1000)] = 45
    """number of L2 values, evenly spaced in the logarithm from 1e-6 to 1e5"""
    select: Literal["accuracy", "balanced_accuracy"] = setting(default="accuracy", needs={"labels": ("classes",)})
    """validation value that chooses the L2 value of classes; findings are chosen one by one by AUROC"""
    max_iter: Count = 1000
    """iterations of L-BFGS"""


@dataclass
class _Whole:
    """Answers to all labels of the test part, whose validation part is its own."""

    backbone: Backbone
    subject: Sequence[int]
    task: TaskConfig
    held: bool = False
    whole: bool = True

    def subjects(self) -> list[int]:
        return list(self.subject)


class ProbeDepth(Analysis):
    """Linear probe of every level."""

    Config = ProbeDepthConfig
    config: ProbeDepthConfig
    paper = "Alain and Bengio 2017; Anton et al. 2022"
    labels = "needed"
    parts = ("train", "val")

    def measure(self, images: Images) -> Findings:
        """Numbers `levelK/METRIC`, the task's own, and `joined/METRIC`; accuracies beside it where labels are classes."""
        channels = images.backbone.channels
        every = [images.others[part] if part in self.parts else images for part in PARTS]
        found = [part.all_features(range(len(channels))) for part in every]
        columns = torch.split(torch.arange(sum(channels)), list(channels))
        probed = {
            f"level{k}": self._probe(images, [_some(part, own) for part in found]) for k, own in enumerate(columns)
        }
        probed["joined"] = self._probe(images, found)
        metric = probed["joined"].metric
        numbers: dict[str, float] = {"images": float(images.count)}
        for name, result in probed.items():
            for key in (metric, *_BESIDE):
                if key in result.metrics:
                    numbers[f"{name}/{key}"] = result.metrics[key]
        notes = list(dict.fromkeys(note for result in probed.values() for note in result.notes))
        return Findings(numbers, f"level{len(channels) - 1}/{metric}", notes=notes)

    def passes(self, images: Images) -> int:
        """All images of the three parts."""
        return images.count + sum(part.count for part in images.others.values())

    def _probe(self, images: Images, features: list[Features]) -> Result:
        asked = _Whole(images.backbone, images.subjects, TaskConfig())
        given = self.config
        config = LinearConfig(strengths=given.strengths, select=given.select, max_iter=given.max_iter)
        features = [part.to(images.device) for part in features]
        outcome, note = chosen_and_fitted(config, asked, images.spec, features)
        notes = [note, *outcome.notes]
        return scored(asked, images.spec, features[2], outcome.logits, chosen=outcome.chosen, notes=notes)

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """The metric by level."""
        lines = {}
        for name, findings in found.items():
            metric = findings.headline.partition("/")[2]
            values = [
                value
                for key, value in findings.numbers.items()
                if key.startswith("level") and key.endswith(f"/{metric}")
            ]
            lines[name] = (range(len(values)), values)
        figure = curves(lines, title="Linear probe by level", x="level, 0 the finest", y=metric.replace("_", " "))
        caption = "A curve that falls towards the last level: what the task needs is known earlier, and lost later."
        return [Drawing("probe_depth", "linear probe by level", figure, caption)]


def _some(features: Features, columns: torch.Tensor) -> Features:
    return Features(features.ids, features.x[:, columns], features.label)
