"""MAE's encoder, alone and beside its decoder."""

from foreign_case import Case
from transformer_layouts import IMAGENET, features, normalised, sines, transformer


def _build(generator, *, decoder=False):
    state = transformer(generator)
    state["pos_embed"] = sines(3, 192, rows_first=False)
    if decoder:
        state["mask_token"] = state["cls_token"]
        state |= {"decoder_pos_embed": state["pos_embed"], "decoder_pred.bias": state["norm.bias"]}
        state |= {
            "decoder_embed.weight": state["blocks.0.attn.proj.weight"],
            "decoder_blocks.0.norm1.bias": state["norm.bias"],
        }
    return {"model": state}


def _features(made, x):
    return features(made["model"], normalised(x, *IMAGENET), heads=3)


CASES = [
    Case("encoder", build=_build, forward=_features, shape=(3, 48, 48)),
    Case("visualize", build=lambda generator: _build(generator, decoder=True), forward=_features, shape=(3, 32, 64)),
]
