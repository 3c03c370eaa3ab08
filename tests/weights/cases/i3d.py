"""I3D in the three forms in which its weights travel; the original's axes are frame, row, column."""

import torch
from foreign_case import Case
from torch.nn import functional as F

WIDTHS = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
# pools before a module: kernel and stride of (frame, row, column)
POOLS = {"3b": ((1, 3, 3), (1, 2, 2)), "4b": ((3, 3, 3), (2, 2, 2)), "5b": ((2, 2, 2), (2, 2, 2))}
UNITS = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")


def piergiaj(generator, *, channels=3):
    """The state dict of pytorch-i3d."""
    state = {}

    def unit(key, out, into, size):
        scale = (2 / (into * size**3)) ** 0.5
        state[f"{key}.conv3d.weight"] = torch.randn(out, into, *[size] * 3, generator=generator) * scale
        for part in ("weight", "running_var"):
            state[f"{key}.bn.{part}"] = 0.5 + torch.rand(out, generator=generator)
        for part in ("bias", "running_mean"):
            state[f"{key}.bn.{part}"] = torch.randn(out, generator=generator) * 0.1

    unit("Conv3d_1a_7x7", 64, channels, 7)
    unit("Conv3d_2b_1x1", 64, 64, 1)
    unit("Conv3d_2c_3x3", 192, 64, 3)
    before = 192
    for name, (one, two_a, two_b, three_a, three_b, four) in WIDTHS.items():
        into = (before, before, two_a, before, three_a, before)
        for key, out, wide in zip(UNITS, (one, two_a, two_b, three_a, three_b, four), into, strict=True):
            unit(f"Mixed_{name}.{key}", out, wide, 3 if key in ("b1b", "b2b") else 1)
        before = one + two_b + three_b + four
    state["logits.conv3d.weight"] = torch.randn(4, before, 1, 1, 1, generator=generator)
    state["logits.conv3d.bias"] = torch.zeros(4)
    return state


def hassony(generator):
    """The same under the names of kinetics_i3d_pytorch."""
    places = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1"}
    places |= {"b2a": "branch_2.0", "b2b": "branch_2.1", "b3b": "branch_3.1"}
    state = {}
    for key, value in piergiaj(generator).items():
        key = key.replace("logits", "conv3d_0c_1x1").replace(".bn.", ".batch3d.").replace("Conv3d", "conv3d")
        for theirs, place in places.items():
            key = key.replace(f".{theirs}.", f".{place}.")
        state[key.replace("Mixed", "mixed")] = value
    return state


def tensorflow(generator):
    """The same as variables of TensorFlow, whose batch normalisation has no scale."""
    places = {"b0": "Branch_0/Conv3d_0a_1x1", "b1a": "Branch_1/Conv3d_0a_1x1", "b1b": "Branch_1/Conv3d_0b_3x3"}
    places |= {"b2a": "Branch_2/Conv3d_0a_1x1", "b2b": "Branch_2/Conv3d_0b_3x3", "b3b": "Branch_3/Conv3d_0b_1x1"}
    ends = {"conv3d.weight": "conv_3d/w", "bn.bias": "batch_norm/beta", "bn.running_mean": "batch_norm/moving_mean"}
    ends |= {"bn.running_var": "batch_norm/moving_variance"}
    state = {}
    for key, value in piergiaj(generator).items():
        end = ".".join(key.split(".")[-2:])
        if end not in ends or key.startswith("logits"):
            continue
        place = key.removesuffix(f".{end}").split(".")
        place = [place[0], places[place[1]]] if len(place) > 1 else place
        name = "/".join(["RGB/inception_i3d", *place, ends[end]])
        state[name] = value.permute(2, 3, 4, 1, 0) if value.ndim == 5 else value.view(1, 1, 1, 1, -1)
    return state


def _same(x, kernel, stride):
    """TensorFlow's padding."""
    sides = []
    for side, size, step in zip(x.shape[2:], kernel, stride, strict=True):
        out = -(-side // step)
        total = max((out - 1) * step + size - side, 0)
        sides = [total // 2, total - total // 2, *sides]
    return F.pad(x, sides)


def _forward(state, x):
    """Of the original, from (B, C, frame, row, column) in [-1, 1]."""

    def unit(key, x, stride=1):
        weight = state[f"{key}.conv3d.weight"]
        x = F.conv3d(_same(x, weight.shape[2:], [stride] * 3), weight, stride=stride)
        parts = (state[f"{key}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *parts, eps=1e-3))

    def pool(x, kernel, stride):
        return F.max_pool3d(_same(x, kernel, stride), kernel, stride)

    pyramid = [unit("Conv3d_1a_7x7", x, 2)]
    x = unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", pool(pyramid[0], *POOLS["3b"])))
    for name in WIDTHS:
        if name in POOLS:
            pyramid.append(x)
            x = pool(x, *POOLS[name])
        key = f"Mixed_{name}"
        branches = [unit(f"{key}.b0", x)]
        branches += [unit(f"{key}.{b}b", unit(f"{key}.{b}a", x)) for b in ("b1", "b2")]
        x = torch.cat([*branches, unit(f"{key}.b3b", pool(x, (3, 3, 3), (1, 1, 1)))], 1)
    return [*pyramid, x]


def _turned(x):
    return x.permute(0, 1, 4, 3, 2)


def forward(made, x):
    """Our images are (B, C, x, y, z) in [0, 1]; of TensorFlow's form the scale is 1."""
    state = piergiaj(torch.Generator().manual_seed(0), channels=x.shape[1])
    if any(key.startswith("RGB") for key in made):
        state = {key: torch.ones_like(value) if key.endswith("bn.weight") else value for key, value in state.items()}
    return [_turned(level) for level in _forward(state, _turned(x) * 2 - 1)]


SHAPE = (3, 34, 32, 17)  # sides of which two are odd for some stride

CASES = [
    Case("piergiaj", piergiaj, forward, SHAPE, ending=".pt"),
    Case("hassony", hassony, forward, SHAPE, slow=True),
    Case("tensorflow", tensorflow, forward, SHAPE, ending=".npz", slow=True),
    Case("flow", lambda generator: piergiaj(generator, channels=2), forward, (2, 16, 16, 8), slow=True),
]
