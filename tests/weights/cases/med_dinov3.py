"""MedDINOv3: DINOv3 without a bias of queries, keys and values, with angles in bfloat16, on CT."""

import torch
from foreign_case import Case
from transformer_layouts import bare, features, prefixed, transformer


def _build(generator):
    state = transformer(generator, scale=True, positions=False, bias=False, registers=("storage_tokens", 4))
    state["mask_token"] = state["cls_token"][0]
    state["rope_embed.periods"] = (100.0 ** (torch.arange(16) / 16)).bfloat16()
    head = {"dino_head.last_layer.weight": state["norm.bias"], "ibot_head.mlp.0.bias": state["norm.bias"]}
    return {"teacher": prefixed(state, "backbone.") | head}


def _features(made, x):
    hounsfield = 2000 * x - 1000
    normalised = (hounsfield - 65.1084213256836) / 178.01663208007812
    return features(bare(made["teacher"], r"backbone\."), normalised, heads=3, rotary=torch.bfloat16)


# queries and keys are rounded to bfloat16, so that an error of the last digit of float32 becomes one of 2^-8
CASES = [Case("teacher", build=_build, forward=_features, shape=(3, 48, 32), tolerance=5e-3)]
