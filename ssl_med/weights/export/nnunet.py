"""A checkpoint for `nnUNetv2_train ... -pretrained_weights FILE`: the whole network without its segmentation layers."""

from __future__ import annotations

from pathlib import Path

import torch

from ssl_med.files import new_file
from ssl_med.spec import SslMedError
from ssl_med.weights.core.exporter import Exporter, Source
from ssl_med.weights.core.nnunet_layout import arch_kwargs, check_ours, foreign_state


class NNUNetCheckpoint(Exporter):
    """Encoder and decoder under nnU-Net's names, each tensor under all of them, kernels in the order (z, y, x)."""

    ending = ".pth"

    def check(self, source: Source) -> None:
        """Only resenc and plainconv, with a decoder that reads skips: nnU-Net demands every tensor of its network."""
        check_ours("nnunet", source.path, source.backbone)
        if source.decoder is None or not source.decoder.skips:
            raise SslMedError(
                f"to=nnunet: {source.path} has no decoder with skips, which nnU-Net demands; to=nnssl takes an encoder alone"
            )

    def write(self, source: Source, out: Path) -> list[str]:
        """Writes `network_weights`, and says which plans build the network."""
        state = foreign_state(source.backbone, source.decoder)
        with new_file(out) as file:
            torch.save({"network_weights": state}, file)
        said = arch_kwargs(source.backbone.config, source.backbone.spatial_dims)
        blocks = "n_blocks_per_stage" if "n_blocks_per_stage" in said else "n_conv_per_stage"
        keys = ("features_per_stage", "kernel_sizes", "strides", blocks, "n_conv_per_stage_decoder")
        network = "ResidualEncoderUNet" if source.backbone.config.name == "resenc" else "PlainConvUNet"
        return [
            f"{len(state)} tensors, no segmentation layers: nnUNetv2_train DATASET CONFIGURATION FOLD -p PLANS "
            f"-pretrained_weights {out.name}",
            f"the plans must build a {network} for {source.backbone.in_channels} channel(s) with (axes z, y, x):",
            *(f"  {key}: {said[key]}" for key in keys),
            *source.contract.lines(),
        ]
