"""Seeded tensors of Models Genesis' 3D U-Net under the original's names, and its forward with functions alone.

Widths are a sixteenth of the original's: names do not depend on them.
"""

import torch
from torch.nn import functional as F

DOWN, UP = (64, 128, 256, 512), (256, 128, 64)  # in names


def unet(generator, *, skips=True, decoder=True, shrink=16):
    """The state dict; skips: whether the decoder concatenates the encoder's levels."""
    state = {}

    def conv(key, out, into, size=3):
        scale = (2 / (into * size**3)) ** 0.5
        state[f"{key}.weight"] = torch.randn(out, into, *[size] * 3, generator=generator) * scale
        state[f"{key}.bias"] = torch.randn(out, generator=generator) * 0.1

    def norm(key, width):
        for part in ("weight", "running_var"):
            state[f"{key}.{part}"] = 0.5 + torch.rand(width, generator=generator)
        for part in ("bias", "running_mean"):
            state[f"{key}.{part}"] = torch.randn(width, generator=generator) * 0.1
        state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    def unit(key, out, into):
        conv(f"{key}.conv1", out, into)
        norm(f"{key}.bn1", out)

    before = 1
    for width in DOWN:
        first = before if before > 1 else width // shrink // 2  # 1 -> 32 -> 64, then 64 -> 64 -> 128
        unit(f"down_tr{width}.ops.0", first, before)
        unit(f"down_tr{width}.ops.1", width // shrink, first)
        before = width // shrink
    for width in UP if decoder else ():
        out = width // shrink
        state[f"up_tr{width}.up_conv.weight"] = torch.randn(before, before, 2, 2, 2, generator=generator) * 0.3
        state[f"up_tr{width}.up_conv.bias"] = torch.randn(before, generator=generator) * 0.1
        unit(f"up_tr{width}.ops.0", out, before + out if skips else before)
        unit(f"up_tr{width}.ops.1", out, out)
        before = out
    if decoder:
        conv("out_tr.final_conv", 1, before, size=1)
    return state


def linear(state, generator, key, out, into):
    """Adds a fully connected layer to a state dict."""
    state[f"{key}.weight"] = torch.randn(out, into, generator=generator)
    state[f"{key}.bias"] = torch.zeros(out)


def _units(state, key, x, batch):
    for number in (0, 1):
        norm = f"{key}.ops.{number}.bn1"
        x = F.conv3d(x, *(state[f"{key}.ops.{number}.conv1.{part}"] for part in ("weight", "bias")), padding=1)
        weight, bias = state[f"{norm}.weight"], state[f"{norm}.bias"]
        if batch:
            mean = x.mean([0, 2, 3, 4])
            var = x.var([0, 2, 3, 4], correction=0)
        else:
            mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        shaped = [part.view(-1, 1, 1, 1) for part in (mean, var, weight, bias)]
        x = F.relu((x - shaped[0]) / (shaped[1] + 1e-5).sqrt() * shaped[2] + shaped[3])
    return x


def encode(state, x, *, batch=False):
    """Four levels, finest first; batch: normalised by the statistics of the batch."""
    pyramid = []
    for width in DOWN:
        x = _units(state, f"down_tr{width}", F.max_pool3d(x, 2) if pyramid else x, batch)
        pyramid.append(x)
    return pyramid


def decode(state, pyramid, *, skips=True, batch=False):
    """The features at full resolution from which the head restores the image."""
    x = pyramid[-1]
    for width, skip in zip(UP, pyramid[-2::-1], strict=True):
        x = F.conv_transpose3d(x, state[f"up_tr{width}.up_conv.weight"], state[f"up_tr{width}.up_conv.bias"], stride=2)
        x = _units(state, f"up_tr{width}", torch.cat([x, skip], 1) if skips else x, batch)
    return x


def inner(made):
    """The state dict in what a training script saved, without the prefixes of wrappers."""
    state = made.get("state_dict", made.get("model_ema", made))
    return {key.removeprefix("module.").removeprefix("classficationNet."): value for key, value in state.items()}
