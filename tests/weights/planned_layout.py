"""Seeded tensors of nnU-Net's two networks under their names, second names included, and their forward with functions alone."""

import torch
from torch.nn import functional as F

FEATURES = (6, 8, 12)
KERNELS = ((1, 3, 3), (3, 3, 3), (3, 3, 3))  # in the order (z, y, x) of the network
STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
BLOCKS = (1, 2, 2)


class _Builder:
    def __init__(self, generator):
        self.state, self.generator = {}, generator

    def normal(self, *shape, scale):
        return torch.randn(*shape, generator=self.generator) * scale

    def conv(self, key, into, out, kernel, *, bias=True, gain=1.0):
        fan = into * kernel[0] * kernel[1] * kernel[2]
        found = {"conv.weight": self.normal(out, into, *kernel, scale=gain * (2 / fan) ** 0.5)}
        if bias:
            found["conv.bias"] = self.normal(out, scale=0.1)
        found["norm.weight"] = 1 + self.normal(out, scale=0.2)
        found["norm.bias"] = self.normal(out, scale=0.1)
        for name, value in found.items():
            self.state[f"{key}.{name}"] = value
        for name, value in found.items():
            self.state[f"{key}.{name.replace('conv', 'all_modules.0').replace('norm', 'all_modules.1')}"] = value


def planned(generator, *, deep, channels=1, decoder=True, convs=2):
    """The state dict of a ResidualEncoderUNet (deep) or a PlainConvUNet."""
    b, before = _Builder(generator), channels
    if deep:
        b.conv("encoder.stem.convs.0", channels, FEATURES[0], KERNELS[0])
        before = FEATURES[0]
    for stage, (width, kernel, stride) in enumerate(zip(FEATURES, KERNELS, STRIDES, strict=True)):
        for block in range(BLOCKS[stage]):
            if not deep:
                b.conv(f"encoder.stages.{stage}.0.convs.{block}", before, width, kernel)
            else:
                key = f"encoder.stages.{stage}.blocks.{block}"
                b.conv(f"{key}.conv1", before, width, kernel)
                b.conv(f"{key}.conv2", width, width, kernel, gain=0.5)
                if before != width:
                    place = int(block == 0 and max(stride) > 1)  # behind the average
                    b.conv(f"{key}.skip.{place}", before, width, (1, 1, 1), bias=False)
            before = width
    encoder = dict(b.state)
    if decoder:
        b.state |= {f"decoder.{key}": value for key, value in encoder.items()}
        for number, stage in enumerate((1, 0)):
            deeper, width, stride = FEATURES[stage + 1], FEATURES[stage], STRIDES[stage + 1]
            b.state[f"decoder.transpconvs.{number}.weight"] = b.normal(deeper, width, *stride, scale=deeper**-0.5)
            b.state[f"decoder.transpconvs.{number}.bias"] = b.normal(width, scale=0.1)
            for conv in range(convs):
                b.conv(
                    f"decoder.stages.{number}.convs.{conv}", 2 * width if conv == 0 else width, width, KERNELS[stage]
                )
            b.state[f"decoder.seg_layers.{number}.weight"] = b.normal(3, width, 1, 1, 1, scale=1.0)
            b.state[f"decoder.seg_layers.{number}.bias"] = b.normal(3, scale=1.0)
    return b.state


def _layer(state, key, x, stride=(1, 1, 1), *, active=True):
    weight = state[f"{key}.conv.weight"]
    padding = [side // 2 for side in weight.shape[2:]]
    x = F.conv3d(x, weight, state.get(f"{key}.conv.bias"), stride, padding)
    x = F.instance_norm(x, weight=state[f"{key}.norm.weight"], bias=state[f"{key}.norm.bias"])
    return F.leaky_relu(x, 0.01) if active else x


def encode(state, x):
    """(B, C, z, y, x) -> the stages, finest first, in that order of axes."""
    found = []
    deep = "encoder.stem.convs.0.conv.weight" in state
    if deep:
        x = _layer(state, "encoder.stem.convs.0", x)
    for stage in range(len(FEATURES)):
        for block in range(BLOCKS[stage]):
            stride = STRIDES[stage] if block == 0 else (1, 1, 1)
            if not deep:
                x = _layer(state, f"encoder.stages.{stage}.0.convs.{block}", x, stride)
                continue
            key, beside = f"encoder.stages.{stage}.blocks.{block}", x
            y = _layer(state, f"{key}.conv2", _layer(state, f"{key}.conv1", x, stride), active=False)
            place = int(max(stride) > 1)
            beside = F.avg_pool3d(beside, stride, stride) if place else beside
            if f"{key}.skip.{place}.conv.weight" in state:
                beside = _layer(state, f"{key}.skip.{place}", beside, active=False)
            x = F.leaky_relu(y + beside, 0.01)
        found.append(x)
    return found


def decode(state, found, *, convs=2):
    """The stages -> features at full resolution."""
    x = found[-1]
    for number, skip in enumerate(found[-2::-1]):
        key = f"decoder.transpconvs.{number}"
        weight = state[f"{key}.weight"]
        x = F.conv_transpose3d(x, weight, state[f"{key}.bias"], stride=weight.shape[2:])
        x = torch.cat([x, skip], 1)
        for conv in range(convs):
            x = _layer(state, f"decoder.stages.{number}.convs.{conv}", x)
    return x


def turned(function, x, order=(0, 1, 2)):
    """Features of (B, C, x, y, z) as nnU-Net computes them: of its own order of axes, turned back.

    order: `transpose_forward` of the plans, over (z, y, x).
    """
    there = [2 + (2 - axis) for axis in order]
    back = [2 + there.index(2 + axis) for axis in range(3)]
    found = function(x.permute(0, 1, *there))
    return [level.permute(0, 1, *back) for level in found] if isinstance(found, list) else found.permute(0, 1, *back)


def kwargs(*, deep, convs=2):
    """Keywords of the architecture, as plans hold them."""
    return {
        "n_stages": 3,
        "features_per_stage": list(FEATURES),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [list(kernel) for kernel in KERNELS],
        "strides": [list(stride) for stride in STRIDES],
        "n_blocks_per_stage" if deep else "n_conv_per_stage": list(BLOCKS),
        "n_conv_per_stage_decoder": [convs, convs],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
