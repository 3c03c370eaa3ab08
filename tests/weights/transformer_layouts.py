"""Seeded tensors of vision transformers under the names of timm and DINO, and their forward with functions alone."""

import math
import re

import torch
from torch.nn import functional as F

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def transformer(
    generator,
    *,
    width=192,
    depth=4,
    patch=16,
    grid=3,
    channels=3,
    dims=2,
    bias=True,
    scale=False,
    registers=("", 0),
    gated="",
    positions=True,
):
    """A state dict.

    registers: key and number; gated: name of a SwiGLU's first layer; positions: learned ones, of class token and grid.
    """

    def noise(*shape, scale=0.02):
        return torch.randn(shape, generator=generator) * scale

    def linear(key, out, into, *, bias=True):
        state[f"{key}.weight"] = noise(out, into, scale=into**-0.5)
        if bias:
            state[f"{key}.bias"] = noise(out, scale=0.1)

    def norm(key):
        state[f"{key}.weight"], state[f"{key}.bias"] = 1 + noise(width, scale=0.2), noise(width, scale=0.1)

    state = {"cls_token": noise(1, 1, width, scale=0.5)}
    if positions:
        state["pos_embed"] = noise(1, 1 + grid**dims, width, scale=0.5)
    if registers[1]:
        state[registers[0]] = noise(1, registers[1], width, scale=0.5)
    state["patch_embed.proj.weight"] = noise(width, channels, *[patch] * dims, scale=(channels * patch**dims) ** -0.5)
    state["patch_embed.proj.bias"] = noise(width, scale=0.1)
    for number in range(depth):
        key, hidden = f"blocks.{number}", 4 * width
        norm(f"{key}.norm1")
        linear(f"{key}.attn.qkv", 3 * width, width, bias=bias)
        linear(f"{key}.attn.proj", width, width)
        norm(f"{key}.norm2")
        names = {"": ("fc1", "fc2"), "w12": ("w12", "w3"), "w1": ("w1", "w3")}[gated]
        hidden = 2 * width if gated else 4 * width
        linear(f"{key}.mlp.{names[0]}", 2 * hidden if gated == "w12" else hidden, width)
        if gated == "w1":
            linear(f"{key}.mlp.w2", hidden, width)
        linear(f"{key}.mlp.{names[1]}", width, hidden)
        if scale:
            for branch in ("ls1", "ls2"):
                state[f"{key}.{branch}.gamma"] = 0.3 + noise(width, scale=0.1)
    norm("norm")
    return state


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def bare(state, pattern):
    """Tensors behind a prefix, without it."""
    return {key[len(found[0]) :]: value for key, value in state.items() if (found := re.match(pattern, key))}


def normalised(x, mean, std):
    shape = (1, -1, *[1] * (x.ndim - 2))
    return (x - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def plain(grid, size):
    return F.interpolate(grid, size=size, mode="bicubic", align_corners=False)


def smoothed(grid, size):
    return F.interpolate(grid, size=size, mode="bicubic", align_corners=False, antialias=True)


def offset(grid, size):
    """DINO's: the scale is that of 0.1 tokens more than there are."""
    factors = tuple(float((new + 0.1) / old) for new, old in zip(size, grid.shape[2:], strict=True))
    return F.interpolate(grid, scale_factor=factors, mode="bicubic" if grid.ndim == 4 else "trilinear")


def sines(grid, width, *, rows_first):
    """Fixed positions (1, 1 + grid², width), entry by entry; zeros for the class token."""
    found = torch.zeros(1, 1 + grid * grid, width, dtype=torch.float64)
    quarter = width // 4
    for row in range(grid):
        for column in range(grid):
            pair = (row, column) if rows_first else (column, row)
            for half, place in enumerate(pair):
                for k in range(quarter):
                    angle = place / 10000 ** (k / quarter)
                    found[0, 1 + row * grid + column, 2 * half * quarter + k] = math.sin(angle)
                    found[0, 1 + row * grid + column, (2 * half + 1) * quarter + k] = math.cos(angle)
    return found.float()


def rotation(periods, size, dtype=torch.float32):
    """Cosines and sines (tokens, channels of a head) of DINOv3's positions, token by token."""
    rows, columns = size
    places = []
    for row in range(rows):
        for column in range(columns):
            pair = torch.tensor([row + 0.5, column + 0.5], dtype=dtype) / torch.tensor([rows, columns], dtype=dtype)
            places.append(2.0 * pair - 1.0)
    angles = torch.stack([torch.cat([2 * math.pi * p / periods.to(dtype) for p in pair] * 2) for pair in places])
    return angles.cos(), angles.sin()


def tokens_of(state, x, *, heads, eps=1e-6, resize=plain, rotary=None):
    """All tokens after the last normalisation, class token first, then registers, then patches."""
    stride = state["patch_embed.proj.weight"].shape[2:]
    convolve = F.conv2d if x.ndim == 4 else F.conv3d
    maps = convolve(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=stride)
    size = maps.shape[2:]
    cls, turns = state["cls_token"], None
    if rotary is None:
        grid = state["pos_embed"][:, 1:].transpose(1, 2)
        side = round(grid.shape[2] ** (1 / len(size)))
        grid = grid.reshape(1, -1, *[side] * len(size))
        maps = maps + (grid if grid.shape[2:] == size else resize(grid, size))
        cls = cls + state["pos_embed"][:, :1]
    else:
        turns = rotation(state["rope_embed.periods"], size, rotary)
    names = [key for key in ("reg_token", "register_tokens", "storage_tokens") if key in state]
    front = torch.cat([cls, *(state[key] for key in names)], 1).expand(len(x), -1, -1)
    t = torch.cat([front, maps.flatten(2).transpose(1, 2)], 1)
    width, number = t.shape[2], 0

    def norm(key, t):
        return F.layer_norm(t, (width,), state[f"{key}.weight"], state[f"{key}.bias"], eps)

    def linear(key, t):
        return F.linear(t, state[f"{key}.weight"], state.get(f"{key}.bias"))

    while f"blocks.{number}.norm1.weight" in state:
        key, number = f"blocks.{number}", number + 1
        one, two = (state.get(f"{key}.{branch}.gamma", torch.tensor(1.0)) for branch in ("ls1", "ls2"))
        parts = F.linear(
            norm(f"{key}.norm1", t),
            state[f"{key}.attn.qkv.weight"],
            state[f"{key}.attn.qkv.bias"] * state.get(f"{key}.attn.qkv.bias_mask", torch.tensor(1.0))
            if f"{key}.attn.qkv.bias" in state
            else None,
        )
        answers = []
        for head in range(heads):
            each = width // heads
            q, k, v = (parts[..., n * width + head * each :][..., :each] for n in range(3))
            if turns is not None:
                q, k = (_turned(part, turns, len(front[0])) for part in (q, k))
            weights = (q @ k.transpose(1, 2) / each**0.5).softmax(-1)
            answers.append(weights @ v)
        t = t + one * linear(f"{key}.attn.proj", torch.cat(answers, -1))
        y = norm(f"{key}.norm2", t)
        if f"{key}.mlp.fc1.weight" in state:
            y = linear(f"{key}.mlp.fc2", F.gelu(linear(f"{key}.mlp.fc1", y)))
        else:
            if f"{key}.mlp.w12.weight" in state:
                gate, value = linear(f"{key}.mlp.w12", y).chunk(2, -1)
            else:
                gate, value = linear(f"{key}.mlp.w1", y), linear(f"{key}.mlp.w2", y)
            y = linear(f"{key}.mlp.w3", gate * gate.sigmoid() * value)
        t = t + two * y
    return norm("norm", t)


def _turned(part, turns, front):
    cos, sin = turns
    exact = part[:, front:].to(cos.dtype)
    half = exact.shape[-1] // 2
    swapped = torch.cat([-exact[..., half:], exact[..., :half]], -1)
    return torch.cat([part[:, :front], (exact * cos + swapped * sin).to(part.dtype)], 1)


def features(state, x, **options):
    """The patches' last tokens as a map (B, width, *grid)."""
    stride = state["patch_embed.proj.weight"].shape[2:]
    size = [side // by for side, by in zip(x.shape[2:], stride, strict=True)]
    found = tokens_of(state, x, **options)[:, -math.prod(size) :]
    return found.transpose(1, 2).reshape(len(x), -1, *size)
