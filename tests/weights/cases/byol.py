"""BYOL: layouts of PyTorch programs, and DeepMind's arrays with a forward that pads as JAX does."""

import re

import torch
from convolutional_layouts import MEAN, STD, behind, beside, mlp, resnet, resnet_forward
from foreign_case import Case
from torch.nn import functional as F

LAYERS = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}  # places in a Sequential


def _sequential(generator):
    named = resnet("resnet18", generator, classes=0)
    online = {re.sub(r"^\w+", lambda name: f"encoder.{LAYERS[name[0]]}", key): value for key, value in named.items()}
    online |= mlp("projetion.net", 512, 64, 16, norm=[(1, 64)])
    return {"online_network_state_dict": online, "target_network_state_dict": online, "optimizer_state_dict": {}}


def _sequential_forward(made, x):
    places = {place: name for name, place in LAYERS.items()}
    state = behind("encoder.", made["online_network_state_dict"])
    named = {re.sub(r"^\d+", lambda place: places[int(place[0])], key): value for key, value in state.items()}
    return resnet_forward(named, (x - MEAN) / STD)


def _wrapped(generator):
    """The network stands there twice, and once more as the target, with its classifier."""
    online, target = (resnet("resnet18", generator) for _ in range(2))
    state = beside("net.", online) | beside("online_encoder.net.", online) | beside("target_encoder.net.", target)
    state |= mlp("online_encoder.projector", 512, 64, 16, norm=[(1, 64)])
    return state | mlp("online_predictor", 16, 64, 16, norm=[(1, 64)])


def _bolts(generator):
    state = beside("online_network.encoder.", resnet("resnet18", generator, classes=0))
    state |= mlp("online_network.projector.model", 512, 64) | mlp("predictor.model", 64, 64)
    return {"state_dict": state | mlp("target_network.projector.model", 512, 64)}


def _prefixed(prefix, *containers):
    def forward(made, x):
        for container in containers:
            made = made[container]
        return resnet_forward(behind(prefix, made), (x - MEAN) / STD)

    return forward


def _haiku(generator):
    """Arrays by module; convolutions (H, W, I, O), everything of a normalisation (1, 1, 1, C)."""
    torso, state = "res_net50/~/", {}
    for key, value in resnet("resnet50", generator, classes=0).items():
        layer, _, part = key.rpartition(".")
        block = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", layer)
        inner = block[3] if block else layer
        shortcut = {"downsample.0": "shortcut_conv", "downsample.1": "shortcut_batchnorm"}
        kind = "conv" if inner.startswith("conv") else "batchnorm"
        name = shortcut.get(inner, f"{kind}_{int(inner[-1]) - 1}")
        where = f"block_group_{int(block[1]) - 1}/~/block_{block[2]}/~/{name}" if block else f"initial_{kind}"
        average = {"running_mean": "mean_ema", "running_var": "var_ema"}.get(part)
        if value.ndim == 4:
            state[f"{torso}{where}/w"] = value.permute(2, 3, 1, 0)
        elif average:
            state[f"{torso}{where}/~/{average}/average"] = value.view(1, 1, 1, -1)
            state[f"{torso}{where}/~/{average}/hidden"] = value.view(1, 1, 1, -1) * 0.9
            state[f"{torso}{where}/~/{average}/counter"] = torch.tensor(9)
        elif value.ndim:
            state[f"{torso}{where}/{'scale' if part == 'weight' else 'offset'}"] = value.view(1, 1, 1, -1)
    heads = ("projector/linear/w", "projector/batch_norm/~/mean_ema/average", "predictor/linear_1/w", "classifier/b")
    return state | {name: torch.zeros(4) for name in heads}


def _same(x, size, stride, value=0.0):
    """Padding of JAX's SAME: as much as the output of ceil(side / stride) needs, the larger half behind."""
    pads = []
    for side in reversed(x.shape[2:]):
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def haiku_forward(state, x):
    """The network of DeepMind's code, on (B, 3, H, W) after normalisation."""

    def conv(name, x, stride=1):
        weight = state[f"res_net50/~/{name}/w"]
        return F.conv2d(_same(x, len(weight), stride), weight.permute(3, 2, 0, 1), stride=stride)

    def norm(name, x):
        path = f"res_net50/~/{name}"
        parts = ("~/mean_ema/average", "~/var_ema/average", "scale", "offset")
        mean, var, scale, offset = (state[f"{path}/{part}"].view(1, -1, 1, 1) for part in parts)
        return (x - mean) * scale / (var + 1e-5).sqrt() + offset

    pyramid = [F.relu(norm("initial_batchnorm", conv("initial_conv", x, 2)))]
    x = F.max_pool2d(_same(pyramid[0], 3, 2, -float("inf")), 3, 2)
    for group, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            at, stride = f"block_group_{group}/~/block_{block}/~/", 2 if group and not block else 1
            y = F.relu(norm(f"{at}batchnorm_0", conv(f"{at}conv_0", x)))
            y = F.relu(norm(f"{at}batchnorm_1", conv(f"{at}conv_1", y, stride)))
            y = norm(f"{at}batchnorm_2", conv(f"{at}conv_2", y))
            short = x if block else norm(f"{at}shortcut_batchnorm", conv(f"{at}shortcut_conv", x, stride))
            x = F.relu(y + short)
        pyramid.append(x)
    return pyramid


CASES = [
    Case("sequential", build=_sequential, forward=_sequential_forward, shape=(3, 64, 64)),
    Case("lucidrains", build=_wrapped, forward=_prefixed("online_encoder.net."), shape=(3, 64, 64), ending=".pt"),
    Case(
        "bolts",
        build=_bolts,
        forward=_prefixed("online_network.encoder.", "state_dict"),
        shape=(3, 64, 64),
        ending=".ckpt",
    ),
    Case(
        "deepmind",
        build=_haiku,
        forward=lambda made, x: haiku_forward(made, (x - MEAN) / STD),
        shape=(3, 65, 65),  # of sides 32 n + 1 JAX pads as torch does
        ending=".npz",
        slow=True,
    ),
]
