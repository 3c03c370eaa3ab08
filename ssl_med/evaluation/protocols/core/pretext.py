"""What the pretext probes share: what frozen features know without labels (PCRL, ICCV 2021, Table 1).

Where we differ, and why: the head is the logistic regression of the linear probe, not a layer trained by SGD, so that the value
has no learning rate.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ssl_med.evaluation.protocols.core.contract import Probe, Result, Source, scored
from ssl_med.evaluation.protocols.linear import LinearConfig, chosen_and_fitted
from ssl_med.networks.pyramid import Backbone
from ssl_med.spec import Batch, DataSpec


@dataclass
class PretextConfig(LinearConfig):
    """Logistic regression; every crop gives one sample of each class."""


class Pretext(Probe):
    """A leaf names the classes and makes their samples from crops."""

    Config = PretextConfig
    config: PretextConfig
    labels = False
    metric = "accuracy"
    name: ClassVar[str]
    """of the protocol, part of the key of its feature files"""
    classes: ClassVar[tuple[str, ...]]

    @staticmethod
    @abstractmethod
    def samples(backbone: Backbone, batch: Batch, levels: tuple[int, ...]) -> tuple[list[str], Tensor, Tensor]:
        """Names CASE/NUMBER/CLASS, features and classes of the samples that a batch of crops gives."""

    def result(self, source: Source) -> Result:
        """Accuracy, beside that of guessing."""

        def samples_of(batch: Batch) -> tuple[Sequence[str], Tensor, Tensor]:
            return self.samples(source.backbone, batch, source.levels)

        spec = DataSpec.from_dict(source.spec.to_dict() | {"target": "class", "class_names": list(self.classes)})
        features = source.features(samples_of, kind=self.name)
        outcome, note = chosen_and_fitted(self.config, source, spec, features)
        found = scored(
            source,
            spec,
            features[2],
            outcome.logits,
            chosen=outcome.chosen,
            notes=[note, *outcome.notes],
            place=lambda _, name: int(name.split("/")[-2]),  # a sample is named by its crop's number
        )
        found.metric = self.metric
        found.metrics = {"accuracy": found.metrics["accuracy"], "chance": 1 / len(self.classes)}
        return found


def numbered(batch: Batch) -> list[tuple[str, int]]:
    """Several crops of a scan share its name, so their number is part of a sample's."""
    return list(zip(batch["id"], batch["index"].tolist(), strict=True))
