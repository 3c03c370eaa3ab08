"""Semantic Genesis: encoder and decoder with a head that classifies, and the encoder of the first stage."""

import torch
from foreign_case import Case
from genesis_layouts import encode, inner, linear, unet


def saved(generator, *, stage="en_de"):
    """What the training writes in each of its two stages; TransVW's is the same."""
    state = unet(generator, decoder=stage == "en_de")
    state["clc_out.conv1.weight"] = torch.randn(64, 32, 3, 3, 3, generator=generator)
    state["clc_out.conv1.bias"] = torch.zeros(64)
    for part in ("weight", "bias", "running_mean", "running_var"):
        state[f"clc_out.bn1.{part}"] = torch.ones(64)
    linear(state, generator, "clc_out.fc1", 44, 64)
    prefix = "module." if stage == "en_de" else "module.classficationNet."
    return {"epoch": 3, "state_dict": {f"{prefix}{key}": value for key, value in state.items()}, "best_loss": 0.1}


def forward(made, x):
    """The encoder's levels."""
    return encode(inner(made), x)


CASES = [
    Case(
        stage, lambda generator, stage=stage: saved(generator, stage=stage), forward, (1, 16, 16, 8), also=("transvw",)
    )
    for stage in ("en_de", "en")
]
