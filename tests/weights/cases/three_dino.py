"""3DINO: DINOv2 with patches in 3D, blocks in chunks, images in [-1, 1]."""

import re

from foreign_case import Case
from transformer_layouts import bare, features, offset, prefixed, transformer


def _build(generator):
    state = transformer(generator, channels=1, dims=3, grid=2, scale=True)
    state["mask_token"] = state["cls_token"][0]
    chunked = {
        re.sub(r"blocks\.(\d)", lambda found: f"blocks.{int(found[1]) // 2}.{found[1]}", key): value
        for key, value in state.items()
    }
    return {"teacher": prefixed(chunked, "backbone.") | {"dino_head.last_layer.weight_g": state["norm.bias"]}}


def _features(made, x):
    state = {re.sub(r"blocks\.\d\.", "blocks.", key): v for key, v in bare(made["teacher"], r"backbone\.").items()}
    return features(state, 2 * x - 1, heads=3, resize=offset)


CASES = [Case("teacher", build=_build, forward=_features, shape=(1, 48, 32, 16))]
