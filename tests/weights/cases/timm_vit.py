"""timm's vision transformers: a plain one with its classifier, one with registers, layer scale and config.json, DeiT."""

import json

from foreign_case import Case
from transformer_layouts import IMAGENET, features, normalised, prefixed, smoothed, transformer

HALF = [0.5] * 3, [0.5] * 3
ABOUT = {
    "architecture": "vit",
    "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "input_size": [3, 48, 48]},
}


def _with_head(generator, **options):
    state = transformer(generator, **options)
    return state | {"head.weight": state["cls_token"][0].repeat(5, 1), "head.bias": state["norm.bias"][:5]}


def _registers(generator):
    state = transformer(generator, patch=14, scale=True, registers=("reg_token", 4))
    state["pos_embed"] = state["pos_embed"][:, 1:]  # positions of patches alone
    return state


def _of_registers(made, x):
    padded = made | {"pos_embed": made["pos_embed"].new_zeros(1, 10, 192)}
    padded["pos_embed"][:, 1:] = made["pos_embed"]
    mean, std = (ABOUT["pretrained_cfg"][key] for key in ("mean", "std"))
    return features(padded, normalised(x, mean, std), heads=3, resize=smoothed)


CASES = [
    Case(
        "vit_tiny",
        build=_with_head,
        forward=lambda made, x: features(made, normalised(x, *HALF), heads=3, resize=smoothed),
        shape=(3, 64, 32),
    ),
    Case(
        "registers",
        build=_registers,
        forward=_of_registers,
        shape=(3, 28, 42),
        ending="model.safetensors",
        folder={"config.json": json.dumps(ABOUT)},
    ),
    Case(
        "deit",
        build=lambda generator: {"model": prefixed(_with_head(generator, grid=2), "module.")},
        forward=lambda made, x: features(
            {key.removeprefix("module."): value for key, value in made["model"].items()},
            normalised(x, *IMAGENET),
            heads=3,
        ),
        shape=(3, 32, 32),
    ),
]
