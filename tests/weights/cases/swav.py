"""SwAV: torchvision's keys behind `module.`, projection head and prototypes; the image is padded before the convolution."""

import torch
from convolutional_layouts import MEAN, STD, behind, beside, mlp, resnet, resnet_forward
from foreign_case import Case
from torch.nn import functional as F


def _build(generator):
    state = beside("module.", resnet("resnet18", generator, classes=0))
    state |= mlp("module.projection_head", 512, 32) | {"module.projection_head.3.weight": torch.zeros(8, 32)}
    return state | {"module.projection_head.3.bias": torch.zeros(8), "module.prototypes.weight": torch.zeros(30, 8)}


def _forward(made, x):
    """The stem as it is written there: padded by 1, then a convolution with padding 2."""
    state = behind("module.", made)
    x = (x - MEAN) / STD
    pyramid = resnet_forward(state, x)
    stem = F.conv2d(F.pad(x, (1, 1, 1, 1)), state["conv1.weight"], stride=2, padding=2)
    parts = ("running_mean", "running_var", "weight", "bias")
    return [F.relu(F.batch_norm(stem, *(state[f"bn1.{part}"] for part in parts))), *pyramid[1:]]


def _second(generator):
    """DeepCluster-v2, in `state_dict`: several sets of prototypes."""
    state = beside("module.", resnet("resnet18", generator, classes=0)) | mlp("module.projection_head", 512, 8)
    return {"state_dict": state | {f"module.prototypes.prototypes{k}.weight": torch.zeros(30, 8) for k in range(3)}}


CASES = [
    Case("swav", build=_build, forward=_forward, shape=(3, 64, 64), ending=".pth.tar"),
    Case(
        "deepcluster_v2",
        build=_second,
        forward=lambda made, x: _forward(made["state_dict"], x),
        shape=(3, 64, 64),
        ending=".pth.tar",
    ),
]
