"""Answers on a prepared grid come back to the grid of the file."""

import numpy as np
import torch

from datamodules.core.placement import Placement
from datamodules.formats.grids import Header


def test_placement_is_linear_between_prepared_voxels():
    prepared = np.diag([2.0, 1.0, 3.0, 1.0])  # voxels of 2 x 1 x 3 mm
    turned = np.zeros((4, 4))
    turned[3, 3], turned[1, 0], turned[0, 1], turned[2, 2] = 1, -1, 1, 1  # x runs down y, y along x
    turned[:3, 3] = [0, 4, 0]
    placement = Placement.between("scan", Header((5, 7, 9), turned), prepared)
    assert placement.shape == (5, 7, 9)
    assert placement.axes == (1, 0, 2)
    grid = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (4, 5, 4)), indexing="ij"))
    world = grid * torch.tensor([2.0, 1.0, 3.0]).view(3, 1, 1, 1)  # values that are places: linear, so nothing is lost
    whole = torch.cat([placement.back(world, slice(k, k + 1)) for k in range(9)], -1)
    index = np.stack(np.meshgrid(*map(np.arange, (5, 7, 9)), indexing="ij"))
    places = np.einsum("ij,jxyz->ixyz", turned[:3, :3], index) + turned[:3, 3].reshape(3, 1, 1, 1)
    assert np.allclose(whole.numpy(), places, atol=1e-5)
