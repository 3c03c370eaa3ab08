"""PCRLv2: the 3D U-Net without skips and its heads, and the 2D encoder."""

from argparse import Namespace

import torch
from convolutional_layouts import MEAN, STD, resnet, resnet_forward
from foreign_case import Case
from genesis_layouts import encode, inner, linear, unet


def _volumes(generator):
    state = unet(generator, skips=False)
    for width in (256, 128, 64):
        step, narrow = f"up_tr{width}", width // 16
        for key, size in (("bn", narrow), ("predictor_head.1", 2 * narrow), ("deep_supervision_head.bn1", 1)):
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{step}.{key}.{part}"] = torch.ones(size)
        linear(state, generator, f"{step}.predictor_head.0", 2 * narrow, narrow)
        linear(state, generator, f"{step}.predictor_head.3", narrow, 2 * narrow)
        state[f"{step}.deep_supervision_head.conv1.weight"] = torch.randn(1, narrow, 3, 3, 3, generator=generator)
        state[f"{step}.deep_supervision_head.conv1.bias"] = torch.zeros(1)
    return {"opt": Namespace(model="pcrlv2", n="luna", d=3), "state_dict": state, "epoch": 240}


def _images(generator):
    options = Namespace(model="pcrlv2", n="chest", d=2)
    return {"opt": options, "state_dict": resnet("resnet18", generator, classes=0), "epoch": 240}


CASES = [
    Case("volumes", _volumes, lambda made, x: encode(inner(made), x), (1, 16, 16, 8), ending=".pt"),
    Case(
        "images",
        _images,
        lambda made, x: resnet_forward(made["state_dict"], (x - MEAN) / STD),
        (3, 64, 64),
        ending=".pt",
        also=("torchvision",),
    ),
]
