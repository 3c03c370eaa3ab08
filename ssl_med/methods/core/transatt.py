"""TransAtt, the attention by which PCRL tells a decoder what its output must show (Zhou et al., ICCV 2021, Sec. 3.1)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.spec import SslMedError

Form = Literal["gate", "paper", "code"]
WIDEST = 512  # channels of the paper's networks, of which the outer product makes 134 M weights


class TransAtt(nn.Module):
    """Weighs the channels of the last encoder level by the indicator v of the transform that is to be shown.

    paper: f_p = MLP(v), f_l = GAP(F), weights = sigmoid(ReLU(W vec(f_p f_l^T))), result conv3(F * weights).
    gate: weights = sigmoid(MLP(v)), result conv3(F * weights). code: the same without the convolution, as the official code.

    Args:
        channels: C of the last encoder level.
        indicators: length of v.
        spatial_dims: 2 or 3.
        form: "gate", "paper" or "code"; "paper" holds C^3 weights.

    Raises:
        SslMedError: "paper" with more channels than the paper's networks have.
    """

    def __init__(self, channels: int, indicators: int, *, spatial_dims: int, form: Form) -> None:
        super().__init__()
        if form == "paper" and channels > WIDEST:
            raise SslMedError(
                f"method.attention=paper holds C^3 weights, {channels**3 / 1e9:.1f} billion for the {channels} channels of "
                f"this backbone's last level; take a backbone of {WIDEST} or fewer, such as resnet18, or method.attention=gate"
            )
        hidden = max(1, channels // 2)
        self.embed = nn.Sequential(nn.Linear(indicators, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.outer = nn.Linear(channels * channels, channels) if form == "paper" else None
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.mix = nn.Identity() if form == "code" else convolution(channels, channels, 3, padding=1)

    def forward(self, features: Tensor, v: Tensor) -> Tensor:
        """(B, C, *S), (B, indicators) -> (B, C, *S)."""
        weights = self.embed(v)
        if self.outer is not None:
            pooled = features.flatten(2).mean(2)
            weights = F.relu(self.outer(torch.einsum("bi,bj->bij", weights, pooled).flatten(1)))
        gates = weights.sigmoid().view(*weights.shape, *[1] * (features.ndim - 2))
        mixed: Tensor = self.mix(features * gates)
        return mixed
