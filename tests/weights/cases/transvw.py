"""TransVW: the layout of Semantic Genesis, with and without heads of a clustering."""

import torch
from foreign_case import Case
from genesis_layouts import encode, inner, linear, unet


def _saved(generator, *, clustered):
    state = unet(generator)
    linear(state, generator, "clc_out.fc1", 100, 64)
    if clustered:
        linear(state, generator, "projection_head.0", 16, 32)
        state["prototypes.weight"] = torch.randn(8, 16, generator=generator)
    return {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}


def _forward(made, x):
    return encode(inner(made), x)


CASES = [
    Case(
        "clustered" if clustered else "released",
        lambda generator, clustered=clustered: _saved(generator, clustered=clustered),
        _forward,
        (1, 16, 16, 8),
        also=("semantic_genesis",),
    )
    for clustered in (False, True)
]
