"""Seeded tensors of MONAI's SwinUNETR, and its forward with the order of tokens that MONAI had before 1.5."""

import torch
from torch import nn

HEADS = ("rotation_head", "contrastive_head")


class OldMerging(nn.Module):
    """Eight neighbouring tokens become one: the slices of MONAI 1.4, of which two are repeated and two are missing."""

    def __init__(self, dim, norm_layer=nn.LayerNorm, spatial_dims=3):
        super().__init__()
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, x):
        x0 = x[:, 0::2, 0::2, 0::2]
        x1 = x[:, 1::2, 0::2, 0::2]
        x2 = x[:, 0::2, 1::2, 0::2]
        x3 = x[:, 0::2, 0::2, 1::2]
        x4 = x[:, 1::2, 0::2, 1::2]
        x7 = x[:, 1::2, 1::2, 1::2]
        return self.reduction(self.norm(torch.cat([x0, x1, x2, x3, x4, x2, x3, x7], -1)))


def original(state, *, v2, channels=1, size=12):
    """MONAI's network filled with what `state` holds of it, strictly where it has a key."""
    from monai.networks.nets import SwinUNETR

    network = SwinUNETR(
        in_channels=channels, out_channels=2, feature_size=size, use_v2=v2, downsample=OldMerging, spatial_dims=3
    )
    if state is not None:
        report = network.load_state_dict(state, strict=False)
        assert not report.unexpected_keys
        assert all(key.startswith(("encoder", "decoder", "out")) for key in report.missing_keys)
    return network.eval()


def seeded(network, generator):
    """Numbers of a size that keeps features apart, by the kind of each tensor."""
    state = {}
    for key, value in network.state_dict().items():
        if not value.is_floating_point():
            state[key] = value.clone()
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            state[key] = noise * (0.5 if key.endswith("table") else value[0].numel() ** -0.5)
        else:
            state[key] = 0.1 * noise + (1.0 if key.endswith("weight") else 0.0)
    return state


def swin(generator, *, v2=False, channels=1, decoder=False, head=False):
    """MONAI's state dict; decoder: with it; head: with the segmentation head."""
    state = seeded(original(None, v2=v2, channels=channels), generator)
    kept = ("swinViT.", *(("encoder", "decoder") if decoder else ()), *(("out.",) if head else ()))
    return {key: value for key, value in state.items() if key.startswith(kept)}


def heads(generator):
    """Of the pretraining of Tang et al."""
    found = {f"{name}.weight": torch.randn(4, 192, generator=generator) for name in HEADS}
    return found | {"conv.0.weight": torch.randn(8, 4, 1, 1, 1, generator=generator)}


def pyramid(state, x, *, v2=False):
    """The image, the tokens and four stages."""
    network = original(state, v2=v2, channels=x.shape[1])
    return [x, *network.swinViT(x, True)]
