"""SuPreM: SwinUNETR and SegResNet as MONAI's classes compute them, Models Genesis' U-Net with the statistics of each image."""

import torch
from foreign_case import Case
from swin_layout import pyramid, seeded, swin
from torch.nn import functional as F

WIDTHS = (8, 16, 16, 24, 32)  # first, then of each level; the real ones are 32, 64, 128, 256, 512
NAMES = (64, 128, 256, 512)


def _around(state, generator):
    """The organ model around a network."""
    state = {f"module.backbone.{key}": value for key, value in state.items()}
    state["module.organ_embedding"] = torch.randn(3, 8, generator=generator)
    state["module.precls_conv.2.weight"] = torch.randn(8, 4, 1, 1, 1, generator=generator)
    state["module.controller.bias"] = torch.randn(5, generator=generator)
    return {"net": state, "optimizer": {}, "epoch": 2}


def _swin(generator):
    return _around(swin(generator, decoder=True, head=True), generator)


def _swin_forward(made, x):
    prefix = "module.backbone."
    state = {key.removeprefix(prefix): value for key, value in made["net"].items() if key.startswith(prefix)}
    return pyramid({key: value for key, value in state.items() if key.startswith("swinViT.")}, x)


def _unet(generator):
    state = {}

    def block(key, into, out):
        state[f"{key}.conv1.weight"] = torch.randn(out, into, 3, 3, 3, generator=generator) * (2 / (27 * into)) ** 0.5
        state[f"{key}.conv1.bias"] = torch.randn(out, generator=generator) * 0.1
        state[f"{key}.bn1.weight"] = 0.5 + torch.rand(out, generator=generator)
        state[f"{key}.bn1.bias"] = torch.randn(out, generator=generator) * 0.1
        state[f"{key}.bn1.running_mean"] = torch.randn(out, generator=generator)
        state[f"{key}.bn1.running_var"] = torch.rand(out, generator=generator) + 3
        state[f"{key}.bn1.num_batches_tracked"] = torch.tensor(5)

    for level, name in enumerate(NAMES):
        block(f"down_tr{name}.ops.0", 1 if level == 0 else WIDTHS[level], WIDTHS[level] if level else WIDTHS[0])
        block(f"down_tr{name}.ops.1", WIDTHS[level], WIDTHS[level + 1])
    for level, name in ((2, 256), (1, 128), (0, 64)):
        deep, skip = WIDTHS[level + 2], WIDTHS[level + 1]
        state[f"up_tr{name}.up_conv.weight"] = torch.randn(deep, deep, 2, 2, 2, generator=generator) * deep**-0.5
        state[f"up_tr{name}.up_conv.bias"] = torch.randn(deep, generator=generator) * 0.1
        block(f"up_tr{name}.ops.0", deep + skip, skip)
        block(f"up_tr{name}.ops.1", skip, skip)
    state["out_tr.final_conv.weight"] = torch.randn(3, WIDTHS[1], 1, 1, 1, generator=generator)
    return _around(state, generator)


def _unet_forward(made, x):
    state, found = made["net"], []
    for level, name in enumerate(NAMES):
        x = F.max_pool3d(x, 2) if level else x
        for number in (0, 1):
            key = f"module.backbone.down_tr{name}.ops.{number}"
            x = F.conv3d(x, state[f"{key}.conv1.weight"], state[f"{key}.conv1.bias"], padding=1)
            # batch normalisation in training mode, an image at a time
            parts = [
                F.batch_norm(one[None], None, None, state[f"{key}.bn1.weight"], state[f"{key}.bn1.bias"], training=True)
                for one in x
            ]
            x = F.relu(torch.cat(parts))
        found.append(x)
    return found


def _segresnet(generator):
    from monai.networks.nets import SegResNet

    network = SegResNet(blocks_down=(1, 2, 2), blocks_up=(1, 1), init_filters=8, in_channels=1, out_channels=3)
    return {"net": {f"module.{key}": value for key, value in seeded(network, generator).items()}}


def _segresnet_forward(made, x):
    from monai.networks.nets import SegResNet

    network = SegResNet(blocks_down=(1, 2, 2), blocks_up=(1, 1), init_filters=8, in_channels=1, out_channels=3)
    network.load_state_dict({key.removeprefix("module."): value for key, value in made["net"].items()})
    return network.eval().encode(x)[1]


CASES = [
    Case("swinunetr", build=_swin, forward=_swin_forward, shape=(1, 32, 32, 32)),
    Case("unet", build=_unet, forward=_unet_forward, shape=(1, 16, 16, 16)),
    Case("segresnet", build=_segresnet, forward=_segresnet_forward, shape=(1, 16, 16, 16)),
]
