"""C2L: `encoder.module.` with an `fc` of 128, beside options, queue and teacher."""

import argparse

import torch
from convolutional_layouts import MEAN, STD, behind, beside, resnet, resnet_forward
from foreign_case import Case


def _build(generator):
    state = beside("encoder.module.", resnet("resnet18", generator, classes=128))
    teacher = {"encoder.module.fc.bias": torch.zeros(128)}  # in short
    rest = {"opt": argparse.Namespace(model="resnet18"), "contrast": {"memory": torch.zeros(16, 128)}, "epoch": 120}
    return {"model": state, "model_ema": teacher, **rest}


def _forward(made, x):
    return resnet_forward(behind("encoder.module.", made["model"]), (x - MEAN) / STD)


CASES = [Case("resnet18", build=_build, forward=_forward, shape=(3, 64, 64))]
