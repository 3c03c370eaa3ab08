"""A state dict with torchvision's names, for `torchvision.models.resnet18().load_state_dict(...)`; it has no head."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ssl_med.files import new_file
from ssl_med.spec import SslMedError
from ssl_med.weights.core.exporter import Exporter, Source
from ssl_med.weights.torchvision import RESNETS


class TorchvisionNames(Exporter):
    """2D ResNets of torchvision and DenseNet-121, without a head."""

    ending = ".pth"

    def check(self, source: Source) -> None:
        """Only its own networks, with batch normalisation."""
        config = source.backbone.config
        known = (*RESNETS.values(), "densenet121")
        if config.name not in known or source.backbone.spatial_dims != 2:
            found = f"{source.backbone.spatial_dims}D {config.name}"
            raise SslMedError(f"to=torchvision: {source.path} is a {found}; torchvision has 2D {', '.join(known)}")
        other = [key for key in ("dilated", "shortcut") if getattr(config, key, None) not in (None, False, "B")]
        if config.norm != "batch" or other:
            key = other[0] if other else "norm"
            raise SslMedError(
                f"to=torchvision: {source.path} has backbone.{key}={getattr(config, key)}, which torchvision does not have"
            )

    def write(self, source: Source, out: Path) -> list[str]:
        """Names of ResNets are the same; MONAI's DenseNet has one more level of names."""
        named = {
            re.sub(r"\.layers\.(norm|conv)([12]\.)", r".\1\2", key): value
            for key, value in source.backbone.state_dict().items()
        }
        with new_file(out) as file:
            torch.save({key: value.detach().cpu().contiguous() for key, value in named.items()}, file)
        config = source.backbone.config
        lines = [
            f"{len(named)} tensors, no head: load_state_dict(torch.load('{out.name}'), strict=False) leaves it as it is"
        ]
        if config.input_mean:
            lines.append(
                f"images must be normalised: minus {list(config.input_mean)}, divided by {list(config.input_std)}"
            )
        return [*lines, *source.contract.lines()]
