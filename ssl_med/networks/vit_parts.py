"""Blocks of vision transformers: attention and a perceptron, each normalised first; the names are those of MONAI's block.

Sources: Dosovitskiy et al., ICLR 2021 (the block); Touvron et al., "Going deeper with image transformers", ICCV 2021 (layer
scale); Shazeer, "GLU variants improve transformer", 2020 (SwiGLU); Siméoni et al., "DINOv3", 2025 (rotary positions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Turns = tuple[Tensor, Tensor]
"""Cosine and sine (B or 1, 1, K, width / heads) by which rotary positions turn the queries and keys of the last K tokens."""


class Attention(nn.Module):
    """Attention of every token to every other, several heads at once."""

    def __init__(self, width: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.out_proj = nn.Linear(width, width)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)

    def forward(self, x: Tensor, turns: Turns | None) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        parts = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind()
        if turns is not None:
            q, k = turned(q, turns), turned(k, turns)
        found: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found


class Perceptron(nn.Module):
    """Two layers with GELU between them; gated: half of the first layer's output, through SiLU, multiplies the other half."""

    def __init__(self, width: int, hidden: int, *, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.linear1 = nn.Linear(width, 2 * hidden if gated else hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        x = self.linear1(x)
        if self.gated:
            gate, value = x.chunk(2, -1)
            x = F.silu(gate) * value
        else:
            x = F.gelu(x)
        found: Tensor = self.linear2(x)
        return found


class Block(nn.Module):
    """x + a(norm(x)), twice: attention, then the perceptron.

    Args:
        width: channels of a token.
        heads: of the attention.
        hidden: channels within the perceptron.
        qkv_bias: bias of queries, keys and values.
        gated: SwiGLU in place of GELU.
        eps: of the layer normalisation.
        scale: initial factor of each channel of both branches; 0: there are no such factors.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, qkv_bias: bool, gated: bool, eps: float, scale: float
    ) -> None:
        super().__init__()
        self.mlp = Perceptron(width, hidden, gated=gated)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, bias=qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.scale1 = nn.Parameter(torch.full((width,), scale)) if scale else None
        self.scale2 = nn.Parameter(torch.full((width,), scale)) if scale else None

    def forward(self, x: Tensor, turns: Turns | None = None) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        branch: Tensor = self.attn(self.norm1(x), turns)
        x = x + (branch if self.scale1 is None else branch * self.scale1)
        branch = self.mlp(self.norm2(x))
        return x + (branch if self.scale2 is None else branch * self.scale2)


def rotary_periods(channels: int, *, base: float = 100.0) -> Tensor:
    """Periods (channels / 4,) of the angles of a head with so many channels, in halves of the image's side."""
    share = 2 * torch.arange(channels // 4) / (channels // 2)
    periods: Tensor = base**share
    return periods


def rotary_turns(periods: Tensor, size: Sequence[int], keep: Tensor | None, dtype: torch.dtype) -> Turns:
    """How the patches of a grid are turned.

    Args:
        periods: see `rotary_periods`.
        size: rows and columns of the grid; the middles of its tokens lie between -1 and 1 along each axis.
        keep: (B, K), the patches that there are; None: all.
        dtype: to which places and angles are rounded; queries and keys are turned in it, too.
    """
    axes = [torch.arange(0.5, side, device=periods.device, dtype=dtype) / side for side in size]
    places = 2.0 * torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2) - 1.0
    angles = (2 * math.pi * places[..., None] / periods.to(dtype)).flatten(1).repeat(1, 2)[None]  # (1, T, channels)
    if keep is not None:
        angles = angles.expand(len(keep), -1, -1).gather(1, keep[..., None].expand(-1, -1, angles.shape[-1]))
    return angles.cos()[:, None], angles.sin()[:, None]


def turned(x: Tensor, turns: Turns) -> Tensor:
    """Queries or keys (B, heads, T, channels): channel c and channel c + half are a point in the plane that is turned.

    Tokens in front of the patches have no place and stay as they are.
    """
    cos, sin = turns
    count = x.shape[2] - cos.shape[2]
    front, x = x[:, :, :count], x[:, :, count:]
    exact = x.to(cos.dtype)
    first, second = exact.chunk(2, -1)
    return torch.cat([front, (exact * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)], 2)


def resized(grid: Tensor, size: Sequence[int], how: str) -> Tensor:
    """Learned positions (1, width, *G) for another grid of tokens, (1, width, *size).

    Args:
        grid: float, 2D or 3D.
        size: of the new grid.
        how: bicubic: plain, trilinear in 3D; antialias: images are smoothed before they are made smaller, 2D only; offset:
            bicubic or trilinear where the scale is that of size + 0.1, as DINO and DINOv2 without registers do.
    """
    mode = "bicubic" if grid.ndim == 4 else "trilinear"
    if how == "offset":
        scale = [(side + 0.1) / known for side, known in zip(size, grid.shape[2:], strict=True)]
        found: Tensor = F.interpolate(grid, scale_factor=scale, mode=mode, align_corners=False)
    else:
        found = F.interpolate(grid, size=list(size), mode=mode, align_corners=False, antialias=how == "antialias")
    return found


def prime_factors(number: int) -> tuple[int, ...]:
    """In ascending order: 14 -> (2, 7)."""
    found, factor = [], 2
    while number > 1:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return tuple(found)
