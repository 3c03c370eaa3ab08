"""Weights of one size for a network of another: inflation from 2D to 3D, patch embeddings and positions on another grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.weights.core.files import State

Inflate = Literal["", "i3d", "centre"]
_MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


def inflate(weight: Tensor, depth: int, rule: Inflate) -> Tensor:
    """A 2D convolution (O, I, *K) for volumes: (O, I, *K, depth).

    * i3d: repeated along depth and divided by it (Carreira and Zisserman, CVPR 2017). A volume that is constant in depth
      gets the 2D activations wherever the kernel does not reach over the border.
    * centre: the 2D kernel at depth // 2, zeros elsewhere: such a volume gets the 2D activations everywhere.
    """
    if rule == "i3d":
        return (weight / depth).unsqueeze(-1).expand(*weight.shape, depth).contiguous()
    result = weight.new_zeros(*weight.shape, depth)
    result[..., depth // 2] = weight
    return result


def resample_grid(grid: Tensor, size: Sequence[int]) -> Tensor:
    """Learned positions (1, W, *G) on another grid, (1, W, *size): bicubic in 2D, trilinear in 3D."""
    if tuple(grid.shape[2:]) == tuple(size):
        return grid
    mode = _MODES[grid.ndim - 2]
    return F.interpolate(grid.float(), size=tuple(size), mode=mode, align_corners=False).to(grid.dtype)


def positions(embedding: Tensor, sides: Sequence[int], *, before: int = 0) -> tuple[Tensor, Tensor]:
    """Positions of tokens as a grid.

    Args:
        embedding: (1, T, W), row-major.
        sides: of the grid; their product is T - before.
        before: tokens in front that have no place in the grid (class token, registers).

    Returns:
        Those in front (1, before, W), and the grid (1, W, *sides).
    """
    front, grid = embedding[:, :before], embedding[:, before:]
    return front, grid.transpose(1, 2).reshape(1, embedding.shape[-1], *sides)


def resample_patch(weight: Tensor, sides: Sequence[int]) -> Tensor:
    """A patch embedding (O, I, *K) for other sides: the embedding of an enlarged patch stays what it was.

    The pseudo-inverse of linear resampling along each axis (Beyer et al., "FlexiViT", CVPR 2023, eq. 4), so that
    <resample(x), new> is <x, old> for larger patches, and as near as possible for smaller ones.
    """
    result = weight.double()
    for axis, (was, now) in enumerate(zip(weight.shape[2:], sides, strict=True), start=2):
        if was != now:
            resize = F.interpolate(
                torch.eye(was, dtype=torch.double)[None], size=now, mode="linear", align_corners=False
            )[0].T
            result = torch.tensordot(result, torch.linalg.pinv(resize), dims=([axis], [0])).movedim(-1, axis)
    return result.to(weight.dtype)


def fit(
    tensors: State, wanted: Mapping[str, Tensor], network: nn.Module, *, rule: Inflate, resample: bool
) -> list[str]:
    """Fits tensors, in place, to a network of other dimensions or with another patch; returns what was done, a line each.

    Args:
        tensors: by our names.
        wanted: the network's, by the same names.
        network: whose modules own them; of names that begin with "decoder." nothing is changed.
        rule: how 2D weights become 3D; "": they do not.
        resample: whether patch embeddings and grids of positions may take another size.
    """
    inflated, moved, cut = 0, [], []
    owners = dict(network.named_modules())
    for key, tensor in tensors.items():
        target = wanted.get(key)
        if target is None or target.shape == tensor.shape:
            continue
        owner = owners.get(key.rpartition(".")[0])
        if owner is None:  # of a decoder, which takes no other size
            continue
        convolution = isinstance(owner, nn.Conv2d | nn.Conv3d) and key.endswith(".weight")
        same = target.shape[:2] == tensor.shape[:2]
        if rule and same and tensor.ndim == 4 and target.ndim == 5:
            if convolution:
                tensor = inflate(tensor, target.shape[-1], rule)
                inflated += 1
            else:  # a grid of positions, the same at every depth
                tensor = tensor.unsqueeze(-1).expand(*tensor.shape, target.shape[-1]).contiguous()
                moved.append(key)
        if resample and same and target.ndim == tensor.ndim > 3 and target.shape != tensor.shape:
            if not convolution:
                tensor = resample_grid(tensor, target.shape[2:])
                moved.append(key)
            elif owner.kernel_size == owner.stride:  # patches that do not overlap
                tensor = resample_patch(tensor, target.shape[2:])
                cut.append(key)
        tensors[key] = tensor
    notes = [f"{inflated} convolutions inflated to 3D by the {rule} rule"] if inflated else []
    notes += [f"positions resampled: {', '.join(dict.fromkeys(moved))}"] if moved else []
    return notes + ([f"patch embedding resampled: {', '.join(cut)}"] if cut else [])
