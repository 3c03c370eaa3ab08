"""MoCo-CXR: MoCo's layout, normalised by the mean and deviation of chest X-rays; DenseNet-121's head is `classifier`."""

import torch
from convolutional_layouts import behind, beside, densenet121, densenet_forward, resnet, resnet_forward
from foreign_case import Case

QUEUE = {"module.queue": torch.zeros(8, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}


def _saved(encoder):
    def build(generator):
        state = beside("module.encoder_q.", encoder(generator)) | beside("module.encoder_k.", encoder(generator))
        return {"epoch": 20, "state_dict": state | QUEUE, "optimizer": {"state": {}, "param_groups": []}}

    return build


def _forward(network):
    return lambda made, x: network(behind("module.encoder_q.", made["state_dict"]), (x - 0.5020) / 0.085585)


CASES = [
    Case(
        "resnet18",
        build=_saved(lambda generator: resnet("resnet18", generator, classes=128)),
        forward=_forward(resnet_forward),
        shape=(3, 64, 64),
        ending=".pth.tar",
        also=("moco",),
    ),
    Case(
        "densenet121",
        build=_saved(lambda generator: densenet121(generator, classes=128)),
        forward=_forward(densenet_forward),
        shape=(3, 64, 64),
        ending=".pth.tar",
        slow=True,
    ),
]
