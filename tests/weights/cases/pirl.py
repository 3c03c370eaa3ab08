"""PIRL of PyContrast: `module.encoder.`, `module.head.`, `module.head_jig.`, beside the options of its command line."""

import argparse

import torch
from convolutional_layouts import MEAN, STD, behind, beside, mlp, resnet, resnet_forward
from foreign_case import Case


def _build(generator):
    state = beside("module.encoder.", resnet("resnet18", generator, classes=0)) | mlp("module.head", 512, 8)
    state |= {"module.head_jig.fc1.weight": torch.zeros(8, 512), "module.head_jig.fc1.bias": torch.zeros(8)}
    state |= {"module.head_jig.fc2.weight": torch.zeros(8, 72), "module.head_jig.fc2.bias": torch.zeros(8)}
    options = argparse.Namespace(arch="resnet18", jigsaw=True, nce_k=65536)
    return {"opt": options, "model": state, "contrast": {"memory": torch.zeros(16, 8)}, "epoch": 200}


def _forward(made, x):
    return resnet_forward(behind("module.encoder.", made["model"]), (x - MEAN) / STD)


CASES = [Case("resnet18", build=_build, forward=_forward, shape=(3, 64, 64))]
