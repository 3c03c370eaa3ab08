"""Rubik's cube: predict in which order the sub-cubes of a volume are shown, and which of them were turned.

Paper: Zhuang et al., "Self-supervised feature learning for 3D medical images by playing a Rubik's cube", MICCAI 2019.
No official code; github.com/jlianglab/StepwisePretraining and other ports were consulted for numbers.

A sub-cube is left alone, turned by 180 degrees in the plane of the last two axes ("horizontal") or in that of the first two
("vertical"), each with probability 1/3; one binary target per sub-cube and axis.

Where we differ, and why:
- a slot's turn is read from its own features by one head for all slots; from the concatenation of all features, as in the
  paper, it was not learned at all while the order varied (1,000 steps on phantoms, ten orders, 3x3 tiles: 50 % against 88 %
  in 300 steps). `labels: original` asks it of the place where the sub-cube came from, as one port does, and needs all of them.
- `turns: legal` takes every turn that the sub-cube's shape admits, with a cross-entropy over turns; the paper leaves quarter
  turns out to keep the task easy.
- the binary cross-entropy is a mean over sub-cubes and axes, so that its weight does not depend on their number.
- images are cut into 3x3 tiles, of which each may be turned by 180 degrees in its plane: the paper has no 2D form.
- the paper scales to [-1, 1]; ours are in [0, 1], which only shifts the first layer's bias.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssl_med.methods.core.about import Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.rubik import Rubik, RubikConfig
from ssl_med.ranges import NonNegative


@dataclass
class RubikCubeConfig(RubikConfig):
    """Defaults of the paper and its ports."""

    order_weight: NonNegative = 0.5
    """a: weight of the order's cross-entropy"""
    rotation_weight: NonNegative = 0.5
    """b: weight of the turns' binary cross-entropy"""


class RubikCube(Rubik):
    """a L_order + b L_rotation."""

    Config = RubikCubeConfig
    any_intensity = True
    paper = Paper(
        "Zhuang et al.",
        "Self-supervised feature learning for 3D medical images by playing a Rubik's cube",
        "MICCAI",
        2019,
    )
    config: RubikCubeConfig

    def terms(self, views: Tensors) -> Tensors:
        """Weighted sum of both tasks."""
        terms, _ = self.solve(views)
        loss = self.config.order_weight * terms["order"] + self.config.rotation_weight * terms["rotation"]
        return {"loss": loss, **terms}
