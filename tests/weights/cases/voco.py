"""VoCo: SwinUNETR of version 2, with its decoder (VoComni) and without (SSL_head)."""

from foreign_case import Case
from swin_layout import pyramid, swin


def _whole(generator):
    return {"state_dict": swin(generator, v2=True, decoder=True, head=True)}


def _blocks(generator):
    """What VoCo_B_SSL_head.pt holds: transformer and the blocks beside it, behind the prefixes of training."""
    state = swin(generator, v2=True, decoder=True)
    kept = {key: value for key, value in state.items() if not key.startswith("decoder")}
    return {"student": {f"module.backbone.{key}": value for key, value in kept.items()}}


def _forward(made, x):
    (state,) = made.values()
    state = {key.removeprefix("module.backbone."): value for key, value in state.items()}
    return pyramid({key: value for key, value in state.items() if key.startswith("swinViT.")}, x, v2=True)


CASES = [
    Case("whole", build=_whole, forward=_forward, shape=(1, 32, 32, 32)),
    Case("blocks", build=_blocks, forward=_forward, shape=(1, 32, 32, 32)),
]
