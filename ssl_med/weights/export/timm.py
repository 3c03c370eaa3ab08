"""A state dict with timm's names for its `VisionTransformer`; it has no head."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_med.files import new_file
from ssl_med.spec import SslMedError
from ssl_med.weights.core.exporter import Exporter, Source

_NAMES = (
    (r"positions\.registers", "reg_token"),
    (r"embed\.(.*)", r"patch_embed.proj.\1"),
    (r"(blocks\.\d+)\.attn\.out_proj\.(.*)", r"\1.attn.proj.\2"),
    (r"(blocks\.\d+)\.scale([12])", r"\1.ls\2.gamma"),
    (r"(blocks\.\d+\.mlp)\.linear([12])\.(.*)", r"\1.fc\2.\3"),
)


class TimmNames(Exporter):
    """2D vision transformers with learned positions, without a head."""

    ending = ".pth"

    def check(self, source: Source) -> None:
        """Only vision transformers in 2D whose positions are learned."""
        config: Any = source.backbone.config
        if config.name != "vit" or source.backbone.spatial_dims != 2:
            found = f"{source.backbone.spatial_dims}D {config.name}"
            raise SslMedError(f"to=timm: {source.path} is a {found}; this form is for 2D vit (ResNets: to=torchvision)")
        if config.positions != "learned":
            raise SslMedError(
                f"to=timm: {source.path} has backbone.positions={config.positions}; timm's VisionTransformer has learned ones"
            )

    def write(self, source: Source, out: Path) -> list[str]:
        """Names as timm has them; positions become one row of tokens, that of the class token is zero."""
        config: Any = source.backbone.config
        named: dict[str, Tensor] = {}
        for key, value in source.backbone.state_dict().items():
            for pattern, to in _NAMES:
                key = re.sub(f"^{pattern}$", to, key)
            named[key] = value
        grid = named.pop("positions.patches").flatten(2).transpose(1, 2)
        if config.class_token:
            named["cls_token"] = named.pop("positions.cls")
            # where there are registers, timm has positions of patches alone
            grid = grid if config.registers else torch.cat([torch.zeros_like(grid[:, :1]), grid], 1)
        named["pos_embed"] = grid
        with new_file(out) as file:
            torch.save({key: value.detach().cpu().contiguous() for key, value in named.items()}, file)
        lines = [f"{len(named)} tensors, no head; the network: VisionTransformer({arguments(source)})"]
        if config.input_mean:
            lines.append(
                f"images must be normalised: minus {list(config.input_mean)}, divided by {list(config.input_std)}"
            )
        return [*lines, *source.contract.lines()]


def arguments(source: Source) -> str:
    """Of `timm.models.vision_transformer.VisionTransformer`, as Python text."""
    config: Any = source.backbone.config
    hidden = (config.mlp or 4 * config.width) * (2 if config.gated else 1)
    given = {
        "img_size": config.grid * config.patch,
        "patch_size": config.patch,
        "in_chans": source.backbone.in_channels,
        "num_classes": 0,
        "global_pool": repr("token" if config.class_token else "avg"),
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": hidden / config.width,
        "qkv_bias": config.qkv_bias,
        "class_token": config.class_token,
        "norm_layer": f"functools.partial(torch.nn.LayerNorm, eps={config.norm_eps:g})",
        "dynamic_img_size": True,
    }
    if config.registers:
        given |= {"reg_tokens": config.registers, "no_embed_class": True}
    if config.layer_scale:
        given["init_values"] = config.layer_scale
    if config.gated:
        given |= {"mlp_layer": "timm.layers.SwiGLUPacked", "act_layer": "torch.nn.SiLU"}
    if not config.class_token:
        given["fc_norm"] = False
    return ", ".join(f"{key}={value}" for key, value in given.items())
