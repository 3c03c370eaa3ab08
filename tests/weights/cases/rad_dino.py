"""RAD-DINO: DINOv2's ViT-B under its own names, with the normalisation of radiographs."""

from foreign_case import Case
from transformer_layouts import features, normalised, offset, transformer


def _build(generator):
    state = transformer(generator, width=768, patch=14, depth=2, scale=True)
    return state | {"mask_token": state["cls_token"][0].clone()}


CASES = [
    Case(
        "backbone_compatible",
        build=_build,
        forward=lambda made, x: features(made, normalised(x, [0.5307] * 3, [0.2583] * 3), heads=12, resize=offset),
        shape=(3, 28, 42),
        ending=".safetensors",
        also=("dinov2",),
    )
]
