"""DINOv2: without and with registers, blocks in chunks as the training saves them, and the giant's SwiGLU."""

import re

from foreign_case import Case
from transformer_layouts import IMAGENET, bare, features, normalised, offset, prefixed, smoothed, transformer


def _build(generator, **options):
    state = transformer(generator, patch=14, depth=2, scale=True, **options)
    return state | {"mask_token": state["cls_token"][0]}


def _chunked(generator):
    state = {re.sub(r"blocks\.(\d)", r"blocks.\1.\1", key): value for key, value in _build(generator).items()}
    head = {"dino_head.last_layer.weight_g": state["norm.bias"], "ibot_head.mlp.0.bias": state["norm.bias"]}
    return {"teacher": prefixed(state, "backbone.") | head}


def _unchunked(made):
    state = bare(made["teacher"], "backbone.")
    return {re.sub(r"blocks\.\d\.", "blocks.", key): value for key, value in state.items()}


def _features(state, x, resize=offset):
    return features(state, normalised(x, *IMAGENET), heads=3, resize=resize)


CASES = [
    Case("vit", build=_build, forward=_features, shape=(3, 28, 56)),
    Case(
        "registers",
        build=lambda generator: _build(generator, registers=("register_tokens", 4)),
        forward=lambda made, x: _features(made, x, smoothed),
        shape=(3, 28, 28),
    ),
    Case("chunked", build=_chunked, forward=lambda made, x: _features(_unchunked(made), x), shape=(3, 42, 42)),
    Case("swiglu", build=lambda generator: _build(generator, gated="w12"), forward=_features, shape=(3, 42, 28)),
]
