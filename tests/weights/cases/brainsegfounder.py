"""BrainSegFounder: the layout of SwinUNETR's pretraining, for four channels of MR."""

from foreign_case import Case
from swin_layout import heads, pyramid, swin


def _build(generator):
    state = swin(generator, channels=4) | heads(generator)
    return {"state_dict": {f"module.{key}": value for key, value in state.items()}}


def _forward(made, x):
    state = {key.removeprefix("module."): value for key, value in made["state_dict"].items()}
    return pyramid({key: value for key, value in state.items() if key.startswith("swinViT.")}, x)


CASES = [Case("brats", build=_build, forward=_forward, shape=(4, 32, 32, 32), also=("swin_unetr",))]
