"""MoCo v3: its ViT-S, whose heads have 32 channels, beside momentum encoder, projector and predictor."""

from foreign_case import Case
from transformer_layouts import IMAGENET, bare, features, normalised, prefixed, sines, transformer


def _build(generator):
    state = transformer(generator, width=384)
    state["pos_embed"] = sines(3, 384, rows_first=True)
    projector = {"head.0.weight": state["blocks.0.attn.proj.weight"], "head.1.running_mean": state["norm.bias"]}
    held = {}
    for key, value in (state | projector).items():
        held |= {f"base_encoder.{key}": value, f"momentum_encoder.{key}": value}
    held["predictor.0.weight"] = state["blocks.0.attn.proj.weight"]
    return {"epoch": 300, "arch": "vit_small", "state_dict": prefixed(held, "module.")}


def _features(made, x):
    return features(bare(made["state_dict"], r"module\.base_encoder\."), normalised(x, *IMAGENET), heads=12)


CASES = [Case("vit_small", build=_build, forward=_features, shape=(3, 48, 64))]
