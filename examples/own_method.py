"""A new method in one file: predict how much of an image was blacked out.

In a checkout the same class as ssl_med/methods/NAME.py, with a recipe in experiments/conf/method/NAME.yaml, is `method=NAME`.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ssl_med.evaluation.metrics import METRICS
from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.networks.heads import ClassificationHead
from ssl_med.spec import Batch, DataSpec


@dataclass
class BlackoutConfig:
    """Settings, each with the paper's default."""

    largest: float = 0.5
    """largest share of the rows that is set to 0"""


class Blackout(Method):
    """A linear head reads from the encoder which share of the first axis is black."""

    Config = BlackoutConfig
    family = ("prediction",)
    paper = Paper("Nobody", "An example", "examples/own_method.py", 2026)
    metric = METRICS["mse"]

    def build(self) -> None:
        """The head; the encoder is there already."""
        self.head = ClassificationHead(self.backbone.out_channels, 1)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Everything random: (B, C, *S) with its first rows at 0, and their share (B,)."""
        image = batch["image"]
        share = torch.rand(len(image), generator=generator, device=image.device) * self.config.largest
        rows = torch.linspace(0, 1, image.shape[2], device=image.device)
        kept = (rows >= share[:, None]).view(len(image), 1, -1, *[1] * (image.ndim - 3))
        return {"image": image * kept, "share": share}

    def terms(self, views: Tensors) -> Tensors:
        """Everything learned: the loss, and what the base class logs and watches."""
        features = self.backbone.pool(self.backbone(views["image"]))
        error = F.mse_loss(self.head(features)[:, 0].float(), views["share"])
        mean = views["share"].var(correction=0)  # the error of a solver that always says the mean
        return {"loss": error, "features": features.detach(), "metric": error.detach(), "baseline": mean}


if __name__ == "__main__":
    spec = DataSpec(name="noise", spatial_dims=2, in_channels=1, patch_size=(32, 32))
    terms = Blackout(spec=spec).losses({"image": torch.rand(8, 1, 32, 32)})
    print({key: round(float(value), 4) for key, value in terms.items() if value.ndim == 0})
