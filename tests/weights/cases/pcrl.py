"""PCRL: the 3D U-Net with its heads beside a teacher, the teacher alone, and the 2D encoder beside its decoder."""

from argparse import Namespace

import torch
from convolutional_layouts import MEAN, STD, resnet, resnet_forward
from foreign_case import Case
from genesis_layouts import encode, inner, linear, unet


def _volumes(generator):
    state = unet(generator)
    linear(state, generator, "fc1", 16, 32)
    linear(state, generator, "fc2", 16, 16)
    linear(state, generator, "aug_fc1", 256, 7)
    linear(state, generator, "aug_fc2", 32, 256)
    return state


def _saved(generator):
    state = _volumes(generator)
    teacher = {f"module.{key}": value * 2 if value.is_floating_point() else value for key, value in state.items()}
    options = Namespace(model="pcrl", n="luna", d=3)
    return {"opt": options, "state_dict": state, "contrast": {"memory": torch.zeros(4, 8)}, "model_ema": teacher}


def _teacher(generator):
    return {"model_ema": {f"module.{key}": value for key, value in _volumes(generator).items()}}


def images(model):
    """What the 2D training of `model` writes."""

    def build(generator):
        state = resnet("resnet18", generator, classes=0)
        decoder = {"blocks.0.conv1.0.weight": torch.zeros(8, 8, 3, 3)}
        return {"opt": Namespace(model=model, n="chest", d=2), "state_dict": state, "decoder_state_dict": decoder}

    return build


CASES = [
    Case("teacher", _teacher, lambda made, x: encode(inner(made), x), (1, 16, 16, 8)),
    Case("volumes", _saved, lambda made, x: encode(inner(made), x), (1, 16, 16, 8), ending=".pt"),
    Case(
        "images",
        images("pcrl"),
        lambda made, x: resnet_forward(made["state_dict"], (x - MEAN) / STD),
        (3, 64, 64),
        ending=".pt",
        also=("torchvision",),
    ),
]
