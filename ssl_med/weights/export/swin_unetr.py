"""A file for `SwinUNETR(...).load_from(torch.load(FILE))` of MONAI: the transformer in the layout of model_swinvit.pt."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from ssl_med.files import new_file
from ssl_med.spec import SslMedError
from ssl_med.weights.core.exporter import Exporter, Source


class SwinTransformerFile(Exporter):
    """The encoder of a swin_unetr of version 1, without its decoder."""

    ending = ".pt"

    def check(self, source: Source) -> None:
        """Only what MONAI's loader copies: it leaves the convolutions of version 2 random, and builds the network anew."""
        config: Any = source.backbone.config
        if config.name != "swin_unetr":
            raise SslMedError(f"to=swin_unetr: {source.path} is a {config.name}; only swin_unetr has this form")
        if config.v2:
            raise SslMedError(
                f"to=swin_unetr: {source.path} has backbone.v2, whose convolutions MONAI's load_from would leave random"
            )
        if config.input_mean:
            raise SslMedError(
                f"to=swin_unetr: {source.path} normalises its image inside, which MONAI's network does not"
            )

    def write(self, source: Source, out: Path) -> list[str]:
        """Writes `state_dict`, whose keys begin with `module.`; says how the network must be built."""
        state = {}
        for key, value in source.backbone.state_dict().items():
            name = re.sub(r"\.mlp\.linear([12])\.", r".mlp.fc\1.", key.removeprefix("swin."))
            state[f"module.{name}"] = value.detach().cpu().contiguous()
        with new_file(out) as file:
            torch.save({"state_dict": state}, file)
        config: Any = source.backbone.config
        build = (
            f"SwinUNETR(in_channels={source.backbone.in_channels}, feature_size={config.feature_size}, "
            f"depths={list(config.depths)}, num_heads={list(config.heads)}, window_size={config.window}, "
            f"spatial_dims={source.backbone.spatial_dims}, out_channels=...)"
        )
        merging = config.merging
        order = {
            "v1": "MONAI 1.5 or later computes what was trained here; older versions join tokens in another order",
            "v1_legacy": "MONAI up to 1.4 computes what was trained here; later versions join tokens in another order",
            "v2": "give downsample='mergingv2' as well, without which MONAI joins tokens in another order",
        }[merging]
        return [f"{len(state)} tensors: {build}.load_from(torch.load('{out.name}'))", order, *source.contract.lines()]
