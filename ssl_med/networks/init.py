"""Initial weights: the four schemes that Models Genesis compares."""

from __future__ import annotations

from typing import Literal

from torch import nn

Scheme = Literal["torch", "uniform", "xavier", "msra"]
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def init_weights(module: nn.Module, scheme: str) -> None:
    """Sets all convolutions, linear and normalisation layers of `module` in place.

    torch: left as PyTorch made them. uniform: U(-0.05, 0.05), Keras' "uniform". xavier: Glorot and Bengio 2010,
    uniform. msra: He et al. 2015, uniform, fan-in, gain of ReLU. In the last three biases are 0, norms scale by 1.
    """
    if scheme == "torch":
        return
    for part in module.modules():
        if isinstance(part, _WEIGHTED):
            if scheme == "uniform":
                nn.init.uniform_(part.weight, -0.05, 0.05)
            elif scheme == "xavier":
                nn.init.xavier_uniform_(part.weight)
            else:
                nn.init.kaiming_uniform_(part.weight, a=0, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, _NORMS) and part.weight is not None:
            nn.init.ones_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
