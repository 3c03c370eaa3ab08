"""Probes of what frozen features know without labels: rotation and relative position (PCRL, ICCV 2021, Table 1).

Where we differ, and why:
- rotations are the four quarter turns of the first two axes, also of volumes, of the largest centred square.
- positions are the eight neighbours of the central cell of three by three cells in the first two axes; a volume's cells have
  its full depth. The paper's 14 x 14 grid leaves cells that are too small for most medical crops.
- the head is the logistic regression of the linear probe, not a layer trained by SGD, so that the value has no learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_med.evaluation.features import pooled
from ssl_med.evaluation.probes import LinearConfig
from ssl_med.networks.pyramid import Backbone
from ssl_med.spec import Batch, DataSpec, SslMedError
from ssl_med.transforms.rotations import rotate

ROTATIONS = ("0", "90", "180", "270")
POSITIONS = ("up-left", "up", "up-right", "left", "right", "down-left", "down", "down-right")


@dataclass
class PretextConfig(LinearConfig):
    """Logistic regression; every crop gives one sample of each class."""


def pretext_spec(spec: DataSpec, kind: str) -> DataSpec:
    """The spec of unlabelled data with the pretext's classes as labels."""
    values = spec.to_dict() | {"target": "class"}
    values["class_names"] = ROTATIONS if kind == "pretext_rotation" else POSITIONS
    return DataSpec.from_dict(values)


def rotation_samples(backbone: Backbone, batch: Batch, levels: tuple[int, ...]) -> tuple[list[str], Tensor, Tensor]:
    """Each crop (B, C, *S) in its four quarter turns: names, (4 B, D) features, (4 B,) turns."""
    image = batch["image"]
    side = min(image.shape[2:4])
    for axis in (2, 3):
        image = image.narrow(axis, (image.shape[axis] - side) // 2, side)
    parts = [pooled(backbone, rotate(image, ((0, 1), turns)), levels) for turns in range(4)]
    names = [f"{name}/{index}/{turn}" for turn in ROTATIONS for name, index in _named(batch)]
    return names, torch.cat(parts), torch.arange(4).repeat_interleave(len(image))


def position_samples(backbone: Backbone, batch: Batch, levels: tuple[int, ...]) -> tuple[list[str], Tensor, Tensor]:
    """The central cell of each crop with each neighbour: names, (8 B, 2 D) features, (8 B,) directions.

    Raises:
        SslMedError: cells that do not reach the encoder's last level.
    """
    image = batch["image"]
    rows, columns = (n // 3 for n in image.shape[2:4])
    low = backbone.min_input_side[:2]
    if rows < low[0] or columns < low[1]:
        raise SslMedError(
            f"data.patch_size {list(image.shape[2:])} gives cells of {rows} x {columns}; the backbone needs cells of "
            f"{low[0]} x {low[1]} or more, so take a patch of {3 * low[0]} x {3 * low[1]} or more"
        )

    def cell(row: int, column: int) -> Tensor:
        return image.narrow(2, row * rows, rows).narrow(3, column * columns, columns)

    centre = pooled(backbone, cell(1, 1), levels)
    around = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
    parts = [torch.cat([centre, pooled(backbone, cell(*place), levels)], 1) for place in around]
    names = [f"{name}/{index}/{direction}" for direction in POSITIONS for name, index in _named(batch)]
    return names, torch.cat(parts), torch.arange(8).repeat_interleave(len(image))


def _named(batch: Batch) -> list[tuple[str, int]]:
    """Several crops of a scan share its name, so their number is part of a sample's."""
    return list(zip(batch["id"], batch["index"].tolist(), strict=True))
