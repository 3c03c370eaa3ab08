"""SimCLR: three layouts of PyTorch programs and that of the converter; images are not normalised."""

from convolutional_layouts import behind, beside, mlp, resnet, resnet_forward
from foreign_case import Case


def _encoder(generator):
    return resnet("resnet18", generator, classes=0)


def _forward(prefix, *containers):
    def forward(made, x):
        for container in containers:
            made = made[container]
        return resnet_forward(behind(prefix, made), x)

    return forward


CASES = [
    Case(
        "projector",
        build=lambda generator: beside("encoder.", _encoder(generator)) | mlp("projector", 512, 512, 64, bias=False),
        forward=_forward("encoder."),
        shape=(3, 64, 64),
        ending=".tar",
    ),
    Case(
        "backbone",
        build=lambda generator: {
            "epoch": 200,
            "arch": "resnet18",
            "state_dict": beside("backbone.", _encoder(generator) | mlp("fc", 512, 512, 128)),
        },
        forward=_forward("backbone.", "state_dict"),
        shape=(3, 64, 64),
        ending=".pth.tar",
    ),
    Case(
        "bolts",
        build=lambda generator: {
            "state_dict": beside("encoder.", _encoder(generator))
            | mlp("projection.model", 512, 512, 128, norm=[(1, 512)])
        },
        forward=_forward("encoder.", "state_dict"),
        shape=(3, 64, 64),
        ending=".ckpt",
    ),
    Case(
        "converter_resnet50",
        build=lambda generator: {"state_dict": resnet("resnet50", generator, classes=1000)},
        forward=_forward("", "state_dict"),
        shape=(3, 64, 64),
        also=("torchvision",),
        named=True,
        slow=True,
    ),
]
