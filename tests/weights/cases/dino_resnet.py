"""DINO's ResNet: a full checkpoint with student and teacher, and the file with the backbone alone."""

import argparse

import torch
from convolutional_layouts import MEAN, STD, behind, beside, mlp, resnet, resnet_forward
from foreign_case import Case


def _full(name, width):
    def build(generator):
        head = mlp("module.head.mlp", width, 32, 32, 8)
        head |= {
            "module.head.last_layer.weight_g": torch.ones(16, 1),
            "module.head.last_layer.weight_v": torch.ones(16, 8),
        }
        student, teacher = (beside("module.backbone.", resnet(name, generator, classes=0)) | head for _ in range(2))
        rest = {"epoch": 800, "args": argparse.Namespace(arch=name), "dino_loss": {"center": torch.zeros(1, 16)}}
        return {"student": student, "teacher": teacher, "optimizer": {"state": {}, "param_groups": []}, **rest}

    return build


def _forward(made, x):
    return resnet_forward(behind("module.backbone.", made["teacher"]), (x - MEAN) / STD)


CASES = [
    Case("full_resnet18", build=_full("resnet18", 512), forward=_forward, shape=(3, 64, 64)),
    Case(
        "backbone_resnet50",
        build=lambda generator: resnet("resnet50", generator, classes=0),
        forward=lambda made, x: resnet_forward(made, (x - MEAN) / STD),
        shape=(3, 64, 64),
        also=("torchvision",),
        named=True,
        slow=True,
    ),
]
