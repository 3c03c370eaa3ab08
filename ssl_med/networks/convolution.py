"""Convolutions that keep right gradients under bfloat16 on a CPU.

oneDNN, which computes them in torch 2.13, returns wrong weight gradients in bfloat16 for images that are narrower than the
kernel: parts of them are read from memory that was never written, and some strided ones write beyond their end. Measured on
an x86 CPU with and without AMX, against float32, for sides of 1 to 9 and kernels of 1, 3 and 7: 3^3 kernels of stride 1
where the first side is 2, 3^d and 7^2 kernels of stride 2 where the last side is 1, or in 3D the middle one. Nothing was found
where all sides reach the kernel's. Such images are tiny, so float32 costs nothing there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Guarded:
    """Of a convolution: in float32 where bfloat16 is not safe; the result has the type that it would have had."""

    kernel_size: tuple[int, ...]

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        forward: Any = super()._conv_forward  # type: ignore[misc]
        if not unsafe(x, self.kernel_size):
            return forward(x, weight, bias)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            y: Tensor = forward(x.float(), weight, bias)
        return y.to(torch.get_autocast_dtype("cpu"))


class GuardedConv2d(_Guarded, nn.Conv2d):
    """nn.Conv2d, safe under bfloat16 on a CPU."""


class GuardedConv3d(_Guarded, nn.Conv3d):
    """nn.Conv3d, safe under bfloat16 on a CPU."""


def unsafe(x: Tensor, kernel: tuple[int, ...]) -> bool:
    """Whether a convolution of x (B, C, *S) would run on a CPU in bfloat16 and a side of x is shorter than the kernel's."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    return any(side < extent for side, extent in zip(x.shape[2:], kernel, strict=True))


def guard_convolutions(module: nn.Module) -> nn.Module:
    """Makes every plain convolution below `module` a guarded one, in place; parameters and their names stay."""
    for child in module.modules():
        if type(child) is nn.Conv2d:
            child.__class__ = GuardedConv2d
        elif type(child) is nn.Conv3d:
            child.__class__ = GuardedConv3d
    return module
