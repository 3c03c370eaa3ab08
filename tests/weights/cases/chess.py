"""CheSS: MoCo's layout with a ResNet-50 for one channel."""

import torch
from convolutional_layouts import behind, beside, resnet, resnet_forward
from foreign_case import Case


def _build(generator):
    state = beside("module.encoder_q.", resnet("resnet50", generator, channels=1, classes=128))
    # the key encoder, which is left out, in short
    state |= {"module.encoder_k.conv1.weight": torch.zeros(64, 1, 7, 7), "module.queue": torch.zeros(128, 4)}
    return {"epoch": 200, "state_dict": state | {"module.queue_ptr": torch.zeros(1, dtype=torch.long)}}


def _forward(made, x):
    return resnet_forward(behind("module.encoder_q.", made["state_dict"]), (x - 0.2) / 0.4)


CASES = [Case("resnet50", build=_build, forward=_forward, shape=(1, 64, 64), ending=".pth.tar")]
