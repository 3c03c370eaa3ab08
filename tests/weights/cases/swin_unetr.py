"""SwinUNETR in its three containers; features are those of MONAI's class with the order of tokens of its time."""

import re

import torch
from foreign_case import Case
from swin_layout import heads, pyramid, swin


def _vit(generator):
    """`model_swinvit.pt`: the transformer alone, with the names of Swin's own code."""
    state = {}
    for key, value in swin(generator).items():
        key = re.sub(r"mlp\.linear([12])", r"mlp.fc\1", key.removeprefix("swinViT."))
        state[f"module.{key}"] = value
    return {"epoch": 3, "state_dict": state}


def _back(state):
    found = {}
    for key, value in state.items():
        key = key.removeprefix("module.").replace("swin_vit.", "").removeprefix("encoder.")
        key = re.sub(r"^(layers\d\.0)\.0\.", r"\1.", re.sub(r"mlp\.fc([12])", r"mlp.linear\1", key))
        if key.startswith(("layers", "patch_embed")):
            found[f"swinViT.{key}"] = value
    return found


def _autoencoder(generator):
    """`ssl_pretrained_weights.pth`: with decoder, mask token, and shortcuts that no block uses."""
    state = {}
    for key, value in swin(generator, decoder=True, head=True).items():
        key = re.sub(r"^swinViT\.(layers\d\.0)\.", r"encoder.\1.0.", key).replace("swinViT.", "encoder.")
        state[key] = value
    for number, width in ((2, 12), (3, 24), (4, 48), (10, 192)):
        state[f"encoder{number}.layer.conv3.conv.weight"] = torch.randn(width, width, 1, 1, 1, generator=generator)
    state["encoder.mask_token"] = torch.zeros(1, 1, 192)
    state |= {"encoder.norm.weight": torch.ones(192), "encoder.norm.bias": torch.zeros(192)}
    return {"model": state}


def _pretraining(generator):
    """A checkpoint of the pretraining of before 2022."""
    state = swin(generator) | heads(generator)
    return {"state_dict": {f"module.{key.replace('swinViT', 'swin_vit')}": value for key, value in state.items()}}


def _case(name, build, container):
    return Case(name, build=build, forward=lambda made, x: pyramid(_back(made[container]), x), shape=(1, 32, 32, 32))


CASES = [
    _case("transformer", _vit, "state_dict"),
    _case("autoencoder", _autoencoder, "model"),
    _case("pretraining", _pretraining, "state_dict"),
]
