"""Seeded tensors of 2D ResNets and DenseNets under torchvision's names, and their forward with functions alone."""

import itertools
import re

import torch
from torch.nn import functional as F

# bottleneck blocks?, blocks of each stage: He et al., Table 1
RESNETS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)  # of ImageNet in [0, 1]
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


class _Builder:
    def __init__(self, generator):
        self.state, self.generator = {}, generator

    def conv(self, key, out, into, size):
        scale = (2 / (into * size * size)) ** 0.5
        self.state[f"{key}.weight"] = torch.randn(out, into, size, size, generator=self.generator) * scale

    def norm(self, key, width):
        def uniform():
            return 0.5 + torch.rand(width, generator=self.generator)

        self.state[f"{key}.weight"], self.state[f"{key}.running_var"] = uniform(), uniform()
        self.state[f"{key}.bias"] = torch.randn(width, generator=self.generator) * 0.1
        self.state[f"{key}.running_mean"] = torch.randn(width, generator=self.generator) * 0.1
        self.state[f"{key}.num_batches_tracked"] = torch.tensor(7)


def resnet(name, generator, *, channels=3, classes=10):
    """The state dict of a ResNet; classes=0: without its head."""
    deep, blocks = RESNETS[name]
    b = _Builder(generator)
    b.conv("conv1", 64, channels, 7)
    b.norm("bn1", 64)
    before = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        out = width * (4 if deep else 1)
        for block in range(count):
            sizes = [(width, 1), (width, 3), (out, 1)] if deep else [(width, 3), (width, 3)]
            into, key = before, f"layer{stage + 1}.{block}"
            for number, (wide, size) in enumerate(sizes, 1):
                b.conv(f"{key}.conv{number}", wide, into, size)
                b.norm(f"{key}.bn{number}", wide)
                into = wide
            # the branch is quiet beside the shortcut, so that deep networks with seeded numbers stay in range
            b.state[f"{key}.bn{len(sizes)}.weight"] *= 0.2
            if block == 0 and (stage > 0 or deep):
                b.conv(f"{key}.downsample.0", out, before, 1)
                b.norm(f"{key}.downsample.1", out)
            before = out
    if classes:
        b.state["fc.weight"] = torch.randn(classes, before, generator=generator)
        b.state["fc.bias"] = torch.zeros(classes)
    return b.state


def _norm(state, key, x):
    parts = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{key}.{part}"] for part in parts))


def resnet_forward(state, x):
    """Stem and four stages, finest first."""
    deep = "layer1.0.conv3.weight" in state
    pyramid = [F.relu(_norm(state, "bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)))]
    x = F.max_pool2d(pyramid[0], 3, 2, 1)
    for stage in (1, 2, 3, 4):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            key, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            count, y = 3 if deep else 2, x
            for number in range(1, count + 1):
                weight = state[f"{key}.conv{number}.weight"]
                # torchvision puts a bottleneck's stride into its 3x3 convolution
                moved = stride if number == (2 if deep else 1) else 1
                y = F.conv2d(y, weight, stride=moved, padding=weight.shape[-1] // 2)
                y = _norm(state, f"{key}.bn{number}", y)
                y = F.relu(y) if number < count else y
            if f"{key}.downsample.0.weight" in state:
                x = F.conv2d(x, state[f"{key}.downsample.0.weight"], stride=stride)
                x = _norm(state, f"{key}.downsample.1", x)
            x = F.relu(x + y)
            block += 1
        pyramid.append(x)
    return pyramid


def densenet121(generator, *, channels=3, classes=10, old=False):
    """The state dict of DenseNet-121 (Huang et al., Table 1); old: `norm.1` in place of `norm1`."""
    b, dot = _Builder(generator), "." if old else ""
    b.conv("features.conv0", 64, channels, 7)
    b.norm("features.norm0", 64)
    width = 64
    for block, layers in enumerate((6, 12, 24, 16), 1):
        for layer in range(1, layers + 1):
            key = f"features.denseblock{block}.denselayer{layer}"
            b.norm(f"{key}.norm{dot}1", width)
            b.conv(f"{key}.conv{dot}1", 128, width, 1)
            b.norm(f"{key}.norm{dot}2", 128)
            b.conv(f"{key}.conv{dot}2", 32, 128, 3)
            width += 32
        if block < 4:
            b.norm(f"features.transition{block}.norm", width)
            width //= 2
            b.conv(f"features.transition{block}.conv", width, 2 * width, 1)
    b.norm("features.norm5", width)
    if classes:
        b.state["classifier.weight"] = torch.randn(classes, width, generator=generator)
        b.state["classifier.bias"] = torch.zeros(classes)
    return b.state


def densenet_forward(state, x):
    """Stem and four dense blocks, finest first; the last one normalised and rectified."""
    state = {re.sub(r"(layer\d+\.(?:norm|conv))\.", r"\1", key): value for key, value in state.items()}
    x = F.conv2d(x, state["features.conv0.weight"], stride=2, padding=3)
    pyramid = [F.relu(_norm(state, "features.norm0", x))]
    x = F.max_pool2d(pyramid[0], 3, 2, 1)
    for block in (1, 2, 3, 4):
        layer = 1
        while f"features.denseblock{block}.denselayer{layer}.conv1.weight" in state:
            key = f"features.denseblock{block}.denselayer{layer}"
            y = F.conv2d(F.relu(_norm(state, f"{key}.norm1", x)), state[f"{key}.conv1.weight"])
            y = F.conv2d(F.relu(_norm(state, f"{key}.norm2", y)), state[f"{key}.conv2.weight"], padding=1)
            x, layer = torch.cat([x, y], 1), layer + 1
        pyramid.append(F.relu(_norm(state, "features.norm5", x)) if block == 4 else x)
        if block < 4:
            key = f"features.transition{block}"
            x = F.avg_pool2d(F.conv2d(F.relu(_norm(state, f"{key}.norm", x)), state[f"{key}.conv.weight"]), 2, 2)
    return pyramid


def beside(prefix, state, **others):
    """An encoder behind a prefix, and the tensors that a training keeps beside it; `a__b` stands for `a.b`."""
    named = {key.replace("__", "."): value for key, value in others.items()}
    return {f"{prefix}{key}": value for key, value in state.items()} | named


def behind(prefix, state):
    """The encoder again."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def mlp(key, *widths, bias=True, norm=()):
    """Linear layers of a head, of zeros: what is left out needs no numbers. Places in `norm` hold a BatchNorm of that width."""
    state, place = {}, 0
    for before, after in itertools.pairwise(widths):
        state[f"{key}.{place}.weight"] = torch.zeros(after, before)
        if bias:
            state[f"{key}.{place}.bias"] = torch.zeros(after)
        place += 2
    for place, width in norm:
        state |= {f"{key}.{place}.running_mean": torch.zeros(width), f"{key}.{place}.running_var": torch.ones(width)}
        state[f"{key}.{place}.num_batches_tracked"] = torch.tensor(1)
    return state
