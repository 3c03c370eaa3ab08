"""Rotation probe: by which quarter turn a crop was rotated (PCRL, ICCV 2021, Table 1; Gidaris et al., ICLR 2018).

Where we differ, and why: rotations are the four quarter turns of the first two axes, also of volumes, of the largest centred
square.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_med.evaluation.features import pooled
from ssl_med.evaluation.protocols.core.pretext import Pretext, numbered
from ssl_med.networks.pyramid import Backbone
from ssl_med.spec import Batch
from ssl_med.transforms.rotations import rotate

ROTATIONS = ("0", "90", "180", "270")


def rotation_samples(backbone: Backbone, batch: Batch, levels: tuple[int, ...]) -> tuple[list[str], Tensor, Tensor]:
    """Each crop (B, C, *S) in its four quarter turns: names, (4 B, D) features, (4 B,) turns."""
    image = batch["image"]
    side = min(image.shape[2:4])
    for axis in (2, 3):
        image = image.narrow(axis, (image.shape[axis] - side) // 2, side)
    parts = [pooled(backbone, rotate(image, ((0, 1), turns)), levels) for turns in range(4)]
    names = [f"{name}/{index}/{turn}" for turn in ROTATIONS for name, index in numbered(batch)]
    return names, torch.cat(parts), torch.arange(4).repeat_interleave(len(image))


class PretextRotation(Pretext):
    """Four classes."""

    name, classes = "pretext_rotation", ROTATIONS
    samples = staticmethod(rotation_samples)
