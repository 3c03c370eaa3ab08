"""TorchXRayVision: DenseNet-121 and ResNet-50 for one channel with values of -1024 to 1024."""

import torch
from convolutional_layouts import behind, beside, densenet121, densenet_forward, resnet, resnet_forward
from foreign_case import Case

POINTS = {"op_threshs": torch.tensor([0.5] * 14 + [float("nan")] * 4)}  # nan: a finding that the data set does not name


def _scaled(x):
    return (2 * x - 1) * 1024


CASES = [
    Case(
        "densenet121",
        build=lambda generator: densenet121(generator, channels=1, classes=18) | POINTS,
        forward=lambda made, x: densenet_forward(made, _scaled(x)),
        shape=(1, 64, 64),
        ending=".pt",
    ),
    Case(
        "densenet121_without_operating_points",
        build=lambda generator: densenet121(generator, channels=1, classes=18),
        forward=lambda made, x: densenet_forward(made, _scaled(x)),
        shape=(1, 64, 64),
        also=("torchvision",),
        slow=True,
    ),
    Case(
        "resnet50",
        build=lambda generator: beside("model.", resnet("resnet50", generator, channels=1, classes=18)) | POINTS,
        forward=lambda made, x: resnet_forward(behind("model.", made), _scaled(x)),
        shape=(1, 64, 64),
        slow=True,
    ),
]
