"""Position probe: in which direction of the central cell another one lies (PCRL, ICCV 2021, Table 1).

Where we differ, and why: positions are the eight neighbours of the central cell of three by three cells in the first two axes;
a volume's cells have its full depth. The paper's 14 x 14 grid leaves cells that are too small for most medical crops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_med.evaluation.features import pooled
from ssl_med.evaluation.protocols.core.pretext import Pretext, numbered
from ssl_med.networks.pyramid import Backbone
from ssl_med.spec import Batch, SslMedError

POSITIONS = ("up-left", "up", "up-right", "left", "right", "down-left", "down", "down-right")


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
    names = [f"{name}/{index}/{direction}" for direction in POSITIONS for name, index in numbered(batch)]
    return names, torch.cat(parts), torch.arange(8).repeat_interleave(len(image))


class PretextPosition(Pretext):
    """Eight classes."""

    name, classes = "pretext_position", POSITIONS
    samples = staticmethod(position_samples)
