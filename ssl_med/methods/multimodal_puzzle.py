"""Multi-modal puzzle: put patches in order that come from different modalities of one patient.

Paper: Taleb et al., "Multimodal self-supervised learning for medical image analysis", arXiv 1912.05396, 2019 (IPMI 2021). No
official code.

Each patch of the grid is taken from a random modality. A shared encoder gives every patch one score per place; Sinkhorn's
iterations make of the scores a soft permutation, and the loss is the squared error of the softly put back patches.

Where we differ, and why:
- any order may be drawn, as in the paper, so there is no set of permutations.
- the backbone has one input channel per modality, so that it serves multi-modal tasks; a patch, of one modality, is shown on
  all of them. So the network does not know which modality it sees, as in the paper.
- each patch is brought to mean 0 and variance 1 before all else: brightness would tell its place, and arbitrary units of MR
  would weight the loss.
- the number of Sinkhorn iterations (20) and the temperature are our choice.
- accuracy is the share of patches that are put where they belong: in validation by the best permutation (Hungarian
  algorithm), in training, where a step must not wait for the device, by each patch's highest score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from ssl_med.losses.permutation import assign, sinkhorn, unpermuted_mse
from ssl_med.methods.core.about import ACCURACY, Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.measures import to_float32
from ssl_med.methods.core.predictive import PatchConfig, PatchMethod, cells_of
from ssl_med.networks.heads import Projector
from ssl_med.ranges import Positive, Range, Width
from ssl_med.spec import Batch
from ssl_med.transforms._sampling import uniform
from ssl_med.transforms.patches import permute


@dataclass
class MultimodalPuzzleConfig(PatchConfig):
    """Cells, Sinkhorn and head."""

    grid: Annotated[int, Range(2, 3, special=(0,))] = 0
    """cells per axis, 2 or 3; 0: 3 in images, 2 in volumes"""
    temperature: Positive = 1.0
    """temperature by which scores are divided before Sinkhorn's algorithm"""
    iterations: Annotated[int, Range(1, 10**4)] = 20
    """iterations of Sinkhorn's algorithm"""
    hidden_dim: Width = 512
    """width of the head's hidden layer"""


class MultimodalPuzzle(PatchMethod):
    """Shared encoder and head: patch -> score of each place."""

    Config = MultimodalPuzzleConfig
    paper = Paper(
        "Taleb et al.", "Multimodal self-supervised learning for medical image analysis", "arXiv 1912.05396", 2019
    )
    metric = ACCURACY
    min_channels = 2
    config: MultimodalPuzzleConfig

    def build(self) -> None:
        """Grid and head."""
        self.make_grid(cells_of(self.config.grid, self.spec.spatial_dims))
        width, hidden = self.backbone.out_channels, self.config.hidden_dim
        self.rescale = self.rescaling(per_image=self.grid.cells)
        self.head = Projector(width, hidden, self.grid.cells, layers=2, norm=False)

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """`ordered` patches (B, P, 1, *patch), each of one modality, and the `order` (B, P) in which they are shown."""
        patches = self.cut(batch["image"], generator)
        size, cells, channels = patches.shape[:3]
        modality = torch.randint(0, channels, (size, cells), generator=generator, device=patches.device)
        one = permute(patches.flatten(0, 1), modality.view(-1, 1)).view(size, cells, 1, *patches.shape[3:])
        return {"ordered": one, "order": uniform(generator, size, cells).argsort(1)}

    def terms(self, views: Tensors) -> Tensors:
        """Squared error of the soft solution."""
        c, ordered, order = self.config, views["ordered"], views["order"]
        shuffled = permute(ordered, order)
        features = self.encode(shuffled.expand(-1, -1, self.spec.in_channels, *shuffled.shape[3:]))
        scores = to_float32(self.head(self.rescale(features)))
        weights = sinkhorn(scores, temperature=c.temperature, iterations=c.iterations)
        places = scores.detach().argmax(2) if self.training else assign(scores)
        return {
            "loss": unpermuted_mse(weights, shuffled, ordered),
            "features": features[:, 0].detach(),
            "metric": (places == order).float().mean(),
            "baseline": scores.new_tensor(1 / self.grid.cells),
        }
