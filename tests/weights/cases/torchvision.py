"""torchvision's ResNets and DenseNet-121, normalised by ImageNet's mean and standard deviation."""

from convolutional_layouts import MEAN, RESNETS, STD, densenet121, densenet_forward, resnet, resnet_forward
from foreign_case import Case


def _resnet(name):
    return Case(
        name,
        build=lambda generator: resnet(name, generator),
        forward=lambda made, x: resnet_forward(made, (x - MEAN) / STD),
        shape=(3, 64, 64),
        slow=name in ("resnet101", "resnet152"),
    )


def _wrapped(generator):
    state = resnet("resnet18", generator)
    return {"epoch": 3, "best_acc1": 0.5, "state_dict": {f"module.{key}": value for key, value in state.items()}}


def _unwrapped(made, x):
    state = {key.removeprefix("module."): value for key, value in made["state_dict"].items()}
    return resnet_forward(state, (x - MEAN) / STD)


def _densenet(name, **options):
    return Case(
        name,
        build=lambda generator: densenet121(generator, **options),
        forward=lambda made, x: densenet_forward(made, (x - MEAN) / STD),
        shape=(3, 64, 64),
    )


CASES = [
    *map(_resnet, RESNETS),
    Case("wrapped", build=_wrapped, forward=_unwrapped, shape=(3, 64, 64), ending=".pth.tar"),
    Case(
        "grey",
        build=lambda generator: resnet("resnet18", generator, channels=1, classes=0),
        forward=resnet_forward,
        shape=(1, 64, 64),
        ending=".safetensors",
    ),
    _densenet("densenet121"),
    _densenet("densenet121_old", old=True),
]
