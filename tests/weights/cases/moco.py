"""MoCo v1 and v2 (`encoder_q`, `encoder_k`, queue) and the ResNet of v3 (`base_encoder`, `momentum_encoder`, predictor)."""

import torch
from convolutional_layouts import MEAN, STD, behind, beside, mlp, resnet, resnet_forward
from foreign_case import Case

QUEUE = {"module.queue": torch.zeros(8, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}


def _released(name, head):
    """{epoch, arch, state_dict, optimizer}; the key encoder has numbers of its own, so that a mistaken one is seen."""

    def build(generator):
        query, key = (resnet(name, generator, classes=0) | head for _ in range(2))
        state = beside("module.encoder_q.", query) | beside("module.encoder_k.", key) | QUEUE
        return {"epoch": 200, "arch": name, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}

    return build


def _third(generator):
    head = mlp("fc", 512, 32, 8, bias=False, norm=[(1, 32), (4, 8)])
    base, momentum = (resnet("resnet18", generator, classes=0) | head for _ in range(2))
    state = beside("module.base_encoder.", base) | beside("module.momentum_encoder.", momentum)
    return {"state_dict": state | mlp("module.predictor", 8, 32, 8, bias=False, norm=[(1, 32)])}


def _forward(prefix):
    return lambda made, x: resnet_forward(behind(prefix, made["state_dict"]), (x - MEAN) / STD)


LINEAR = {"fc.weight": torch.zeros(8, 512), "fc.bias": torch.zeros(8)}
CASES = [
    Case(
        "v1_resnet18",
        build=_released("resnet18", LINEAR),
        forward=_forward("module.encoder_q."),
        shape=(3, 64, 64),
        ending=".pth.tar",
        also=("moco_cxr",),
    ),
    Case(
        "v2_resnet50",
        build=_released("resnet50", mlp("fc", 2048, 32, 8)),
        forward=_forward("module.encoder_q."),
        shape=(3, 64, 64),
        ending=".pth.tar",
        slow=True,
    ),
    Case("v3", build=_third, forward=_forward("module.base_encoder."), shape=(3, 64, 64), ending=".pth.tar"),
    Case(
        "bare",
        build=lambda generator: resnet("resnet18", generator, classes=0),
        forward=lambda made, x: resnet_forward(made, (x - MEAN) / STD),
        shape=(3, 64, 64),
        also=("torchvision",),
        named=True,
    ),
]
