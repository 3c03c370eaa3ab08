"""DINOv3: rotary positions, storage tokens, masked bias of the keys; and the SwiGLU of its plus sizes."""

import torch
from foreign_case import Case
from transformer_layouts import IMAGENET, features, normalised, transformer


def _build(generator, **options):
    state = transformer(generator, width=384, scale=True, positions=False, registers=("storage_tokens", 4), **options)
    state["mask_token"] = state["cls_token"][0]
    state["rope_embed.periods"] = (100.0 ** (torch.arange(16) / 16)).bfloat16().float()
    mask = torch.ones(3 * 384)
    mask[384:768] = 0
    state |= {f"blocks.{number}.attn.qkv.bias_mask": mask for number in range(4)}
    state |= {"local_cls_norm.weight": state["norm.weight"], "local_cls_norm.bias": state["norm.bias"]}
    return state


def _features(made, x):
    return features(made, normalised(x, *IMAGENET), heads=6, eps=1e-5, rotary=torch.float32)


CASES = [
    Case("vit_small", build=_build, forward=_features, shape=(3, 48, 32)),
    Case("plus", build=lambda generator: _build(generator, gated="w1"), forward=_features, shape=(3, 32, 32)),
]
