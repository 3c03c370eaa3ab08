"""MedicalNet: both kinds of shortcut, dilated as the original and strided as MONAI's."""

import torch
from foreign_case import Case
from torch.nn import functional as F

BLOCKS = {
    "resnet10": (False, (1, 1, 1, 1)),
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}


def _saved(name, shortcut):
    deep, blocks = BLOCKS[name]

    def build(generator):
        state = {}

        def conv(key, out, into, size):
            scale = (2 / (into * size**3)) ** 0.5
            state[f"{key}.weight"] = torch.randn(out, into, *[size] * 3, generator=generator) * scale

        def norm(key, width, quiet=1.0):
            state[f"{key}.weight"] = (0.5 + torch.rand(width, generator=generator)) * quiet
            state[f"{key}.running_var"] = 0.5 + torch.rand(width, generator=generator)
            for part in ("bias", "running_mean"):
                state[f"{key}.{part}"] = torch.randn(width, generator=generator) * 0.1

        conv("conv1", 64, 1, 7)
        norm("bn1", 64)
        before = 64
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            out = width * (4 if deep else 1)
            sizes = [(width, 1), (width, 3), (out, 1)] if deep else [(width, 3), (width, 3)]
            for block in range(count):
                into, key = before, f"layer{stage + 1}.{block}"
                for number, (wide, size) in enumerate(sizes, 1):
                    conv(f"{key}.conv{number}", wide, into, size)
                    norm(f"{key}.bn{number}", wide, 0.2 if number == len(sizes) else 1.0)
                    into = wide
                if shortcut == "B" and block == 0 and (stage or deep):
                    conv(f"{key}.downsample.0", out, before, 1)
                    norm(f"{key}.downsample.1", out)
                before = out
        state["conv_seg.0.weight"] = torch.randn(before, 4, 2, 2, 2, generator=generator)
        state["conv_seg.1.running_mean"] = torch.zeros(4)
        return {"state_dict": {f"module.{key}": value for key, value in state.items()}}

    return build


def _forward(name, shortcut, *, dilated):
    deep, blocks = BLOCKS[name]

    def forward(made, x):
        state = {key.removeprefix("module."): value for key, value in made["state_dict"].items()}

        def norm(key, x):
            return F.batch_norm(
                x, *(state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
            )

        pyramid = [F.relu(norm("bn1", F.conv3d(x, state["conv1.weight"], stride=2, padding=3)))]
        x = F.max_pool3d(pyramid[0], 3, 2, 1)
        for stage, count in enumerate(blocks):
            stride, spread = (2, 1) if stage else (1, 1)
            if dilated and stage > 1:
                stride, spread = 1, 2 ** (stage - 1)
            for block in range(count):
                key, step, y = f"layer{stage + 1}.{block}", stride if block == 0 else 1, x
                for number in range(1, 4 if deep else 3):
                    weight = state[f"{key}.conv{number}.weight"]
                    wide = weight.shape[-1] > 1
                    moved = step if number == (2 if deep else 1) else 1
                    by = spread if wide else 1
                    y = F.conv3d(y, weight, stride=moved, padding=by if wide else 0, dilation=by)
                    y = norm(f"{key}.bn{number}", y)
                    y = F.relu(y) if number < (3 if deep else 2) else y
                if f"{key}.downsample.0.weight" in state:
                    x = norm(f"{key}.downsample.1", F.conv3d(x, state[f"{key}.downsample.0.weight"], stride=step))
                elif shortcut == "A" and x.shape[1] < y.shape[1]:
                    thin = F.avg_pool3d(x, 1, step)
                    x = torch.cat([thin, thin.new_zeros(len(thin), y.shape[1] - thin.shape[1], *thin.shape[2:])], 1)
                x = F.relu(x + y)
            pyramid.append(x)
        return pyramid

    return forward


def _case(name, shortcut, *, dilated=True):
    return Case(
        name if dilated else f"{name}_strided",
        build=_saved(name, shortcut),
        forward=_forward(name, shortcut, dilated=dilated),
        shape=(1, 32, 32, 32),
        wishes={} if dilated else {"backbone": {"dilated": False}},
        slow=name not in ("resnet10", "resnet18"),
    )


CASES = [
    _case("resnet10", "B"),
    _case("resnet10", "B", dilated=False),
    _case("resnet18", "A"),
    _case("resnet34", "A"),
    _case("resnet50", "B"),
    _case("resnet101", "B"),
    _case("resnet152", "B"),
]
