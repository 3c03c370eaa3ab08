"""CT-FM: the encoder in a folder of Hugging Face, SegResNetDS with and without a trained decoder, Lightning's checkpoint."""

import json

import torch
from foreign_case import Case
from torch.nn import functional as F

BLOCKS, FILTERS = (1, 2, 1), 4  # of the original: (1, 2, 2, 4, 4), 32


def _encoder(generator):
    state = {}

    def conv(key, out, into):
        state[f"{key}.weight"] = torch.randn(out, into, 3, 3, 3, generator=generator) * (2 / (27 * into)) ** 0.5

    def norm(key, width):
        for part in ("weight", "running_var"):
            state[f"{key}.{part}"] = 0.5 + torch.rand(width, generator=generator)
        for part in ("bias", "running_mean"):
            state[f"{key}.{part}"] = torch.randn(width, generator=generator) * 0.1
        state[f"{key}.num_batches_tracked"] = torch.tensor(3)

    def block(key, width):
        for number in (1, 2):
            norm(f"{key}.norm{number}", width)
            conv(f"{key}.conv{number}", width, width)

    conv("conv_init", FILTERS, 1)
    for level, count in enumerate(BLOCKS):
        width = FILTERS * 2**level
        for number in range(count):
            block(f"layers.{level}.blocks.{number}", width)
        if level < len(BLOCKS) - 1:
            conv(f"layers.{level}.downsample", 2 * width, width)
    return state, conv, block


def _network(generator, *, classes):
    encoder, _, _ = _encoder(generator)
    state, conv, block = _encoder(generator)
    state.clear()
    for step, width in enumerate((2 * FILTERS, FILTERS)):
        conv(f"up_layers.{step}.upsample.deconv", 2 * width, width)
        block(f"up_layers.{step}.blocks.0", width)
        state[f"up_layers.{step}.head.weight"] = torch.randn(classes, width, 1, 1, 1, generator=generator)
        state[f"up_layers.{step}.head.bias"] = torch.zeros(classes)
    return {f"encoder.{key}": value for key, value in encoder.items()} | state


def _lightning(generator):
    state = {f"model.backbone.{key}": value for key, value in _encoder(generator)[0].items()}
    state["model.projection_head.layers.0.weight"] = torch.randn(8, 16, generator=generator)
    return {"epoch": 449, "global_step": 225000, "state_dict": state, "hyper_parameters": {}}


def residual(state, key, x):
    """A block that normalises before it convolves."""
    y = x
    for number in (1, 2):
        parts = ("running_mean", "running_var", "weight", "bias")
        y = F.relu(F.batch_norm(y, *(state[f"{key}.norm{number}.{part}"] for part in parts)))
        y = F.conv3d(y, state[f"{key}.conv{number}.weight"], padding=1)
    return x + y


def forward(made, x):
    """The encoder's levels."""
    prefixes = ("model.backbone.", "encoder.", "")
    state = {
        key.removeprefix(next(one for one in prefixes if key.startswith(one))): value
        for key, value in made.get("state_dict", made).items()
    }
    x, pyramid = F.conv3d(x, state["conv_init.weight"], padding=1), []
    for level, count in enumerate(BLOCKS):
        for number in range(count):
            x = residual(state, f"layers.{level}.blocks.{number}", x)
        pyramid.append(x)
        if level < len(BLOCKS) - 1:
            x = F.conv3d(x, state[f"layers.{level}.downsample.weight"], stride=2, padding=1)
    return pyramid


CONFIG = {"config.json": json.dumps({"spatial_dims": 3, "in_channels": 1, "init_filters": 4, "blocks_down": [1, 2, 1]})}
SHAPE = (1, 8, 16, 16)

CASES = [
    Case("encoder", lambda generator: _encoder(generator)[0], forward, SHAPE, "model.safetensors", folder=CONFIG),
    Case("untrained", lambda g: _network(g, classes=2), forward, SHAPE, "model.safetensors", folder=CONFIG),
    Case("whole_body", lambda g: _network(g, classes=5), forward, SHAPE, "model.safetensors", folder=CONFIG),
    Case("lightning", _lightning, forward, SHAPE, ".ckpt"),
]
