"""Heads of a backbone: projectors for contrast, heads for restoration, classification and segmentation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


class Standardize(nn.Module):
    """(..., d) -> (..., d): brings each feature to mean 0 and variance 1 over all leading dimensions, without learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y: Tensor = self.norm(x.flatten(0, -2)).view_as(x)
        return y


class Projector(nn.Module):
    """(B, in_dim) -> (B, out_dim), not normalised.

    layers=1 is linear; more have hidden_dim and ReLU (or GELU: DINO) in between, with batch normalisation after each
    hidden linear layer when `norm` (SimCLR) and without it when not (MoCo v2). The input passes `entry` first.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        *,
        layers: int = 2,
        norm: bool = True,
        gelu: bool = False,
        entry: nn.Module | None = None,
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = [] if entry is None else [entry]
        for _ in range(layers - 1):
            parts.append(nn.Linear(in_dim, hidden_dim, bias=not norm))
            if norm:
                parts.append(nn.BatchNorm1d(hidden_dim))
            parts.append(nn.GELU() if gelu else nn.ReLU(inplace=True))
            in_dim = hidden_dim
        self.layers = nn.Sequential(*parts, nn.Linear(in_dim, out_dim))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y: Tensor = self.layers(x)
        return y


class Prototypes(nn.Module):
    """Cosine similarity to learned directions: a linear layer without bias on normalised inputs, with normalised rows."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.rows = nn.Linear(dim, count, bias=False)

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """(B, dim) -> (B, count) in [-1, 1].

        frozen: the rows get a gradient of zero, not none, for which DDP would wait; weight decay then changes their
        lengths only, which do not matter.
        """
        rows = F.normalize(self.rows.weight, dim=1)
        if frozen:
            rows = rows.detach() + 0 * rows
        return F.linear(F.normalize(x, dim=1), rows)


def pointwise(in_channels: int, out_channels: int, spatial_dims: int) -> nn.Module:
    """1^d convolution."""
    return (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(in_channels, out_channels, 1)


class RestorationHead(nn.Module):
    """Decoder features -> image; sigmoid for targets in [0, 1], linear otherwise."""

    def __init__(
        self, in_channels: int, out_channels: int, spatial_dims: int, *, activation: Literal["sigmoid", "linear"]
    ) -> None:
        super().__init__()
        self.conv = pointwise(in_channels, out_channels, spatial_dims)
        self.activation = nn.Sigmoid() if activation == "sigmoid" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, out_channels, *S)."""
        y: Tensor = self.activation(self.conv(x))
        return y


class SegmentationHead(nn.Module):
    """Decoder features -> one logit per voxel and region."""

    def __init__(self, in_channels: int, regions: int, spatial_dims: int) -> None:
        super().__init__()
        self.conv = pointwise(in_channels, regions, spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) -> (B, regions, *S)."""
        y: Tensor = self.conv(x)
        return y


class ClassificationHead(nn.Module):
    """Pooled features -> logits: linear, or with one hidden ReLU layer."""

    def __init__(self, in_dim: int, classes: int, *, hidden: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        if hidden is not None:
            parts += [nn.Linear(in_dim, hidden), nn.ReLU(inplace=True)]
        if dropout > 0:
            parts.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*parts, nn.Linear(hidden or in_dim, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim) -> (B, classes)."""
        y: Tensor = self.layers(x)
        return y
