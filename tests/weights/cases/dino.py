"""DINO: the teacher of a full checkpoint, and a bare backbone with patches of 8."""

from foreign_case import Case
from transformer_layouts import IMAGENET, bare, features, normalised, offset, prefixed, transformer


def _full(generator):
    student, teacher = transformer(generator), transformer(generator)
    head = {"head.mlp.0.weight": student["norm.weight"].repeat(4, 1), "head.last_layer.weight_g": student["norm.bias"]}
    return {
        "student": prefixed(prefixed(student, "backbone.") | head, "module."),
        "teacher": prefixed(teacher, "backbone.") | head,
        "epoch": 100,
    }


def _features(state, x):
    return features(state, normalised(x, *IMAGENET), heads=3, resize=offset)


CASES = [
    Case(
        "bare",
        build=lambda generator: transformer(generator, patch=8, depth=3),
        forward=_features,
        shape=(3, 40, 16),
        also=("timm_vit",),
    ),
    Case(
        "full", build=_full, forward=lambda made, x: _features(bare(made["teacher"], "backbone."), x), shape=(3, 32, 64)
    ),
]
