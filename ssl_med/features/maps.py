"""What a network sees where: principal components of dense features as colours, and attention of transformers.

Papers: Oquab et al., "DINOv2", TMLR 2024, and Pérez-García et al., "RAD-DINO", Nature Machine Intelligence 2025 (components as
colours); Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021 (attention of the class token).

One basis is fitted to the features of one level at all places of all images. The first three components are red, green and
blue, two standard deviations of each below and above its mean from dark to bright: places of any image that a network takes for
alike have the same colour. Colours of different networks have nothing to do with each other. Maps lie on the grid of the image
(`core/placing.py`).

- explained: share of the variance in the three components.
- between_images: share of the variance that is between the means of images; the rest is between places within an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.drawing import Tile, planes, tiles, views
from ssl_med.features.core.images import Images
from ssl_med.features.core.placing import offsets_of, on_grid
from ssl_med.finite import check_tensors
from ssl_med.networks.backbones.vit import ViT
from ssl_med.networks.vit_parts import turned
from ssl_med.ranges import Count, Level
from ssl_med.spec import SslMedError

_COLORS = 3
_DEVIATIONS = 2.0  # from the middle of the scale of colours to its ends
_HEADS = 6  # of attention, shown beside their mean


@dataclass
class MapsConfig:
    """What is shown."""

    level: Level = -1
    """level of the pyramid, 0 the finest, -1 the last"""
    pictures: Count = 3
    """images that are shown, evenly spaced among all; of volumes three planes of each"""


class Maps(Analysis):
    """Principal components of dense features as colours, one basis for all images; attention of a ViT's heads."""

    Config = MapsConfig
    config: MapsConfig
    paper = "Oquab et al. 2024; Pérez-García et al. 2025; Caron et al. 2021"

    def measure(self, images: Images) -> Findings:
        """Numbers `explained` and `between_images`."""
        level = self.config.level % len(images.backbone.channels)
        fitted = images.kept("moments", lambda: moments(images, level))
        values, vectors = torch.linalg.eigh(torch.from_numpy(fitted["covariance"]))
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        total = float(values.sum())
        if not total > 0:
            raise SslMedError(
                "kind=maps: the features are the same at all places of all images; there is nothing to show"
            )
        basis = vectors[:, :_COLORS] * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()[:, :_COLORS]
        scale = values[:_COLORS].sqrt().clamp(min=1e-12 * total**0.5)
        numbers = {
            "images": float(images.count),
            "explained": float(values[:_COLORS].sum() / total),
            "between_images": float(fitted["between"].sum() / total),
        }
        shown = np.unique(np.linspace(0, images.count - 1, self.config.pictures).round().astype(int))
        arrays: dict[str, np.ndarray] = {
            "shown": shown,
            "stride": np.array(images.backbone.strides[level]),
            "offset": np.array(offsets_of(images.backbone, level, images.spec.patch_size, device=images.device)),
        }
        for place, pixels in enumerate(images.pictures(set(shown.tolist())).values()):
            image = torch.from_numpy(pixels)[None].to(images.device)
            found = images.encode(image)[level][0].double().cpu()
            centred = found.flatten(1) - torch.from_numpy(fitted["mean"])[:, None]
            color = (basis / scale).T @ centred / (2 * _DEVIATIONS) + 0.5
            arrays[f"image{place}"] = pixels
            arrays[f"color{place}"] = color.reshape(-1, *found.shape[1:]).float().numpy()
            if isinstance(images.backbone, ViT):
                arrays[f"attention{place}"] = attention(images.backbone, image)[0].cpu().numpy()
        notes = []
        if len(values) < _COLORS:
            notes.append(f"the level has {len(values)} channels, so that a colour is missing")
        return Findings(numbers, "explained", arrays=arrays, notes=notes)

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """Images with the colours of each network beside them; attention of each transformer."""
        first = next(iter(found.values())).arrays
        rows, names = [], []
        for place in range(sum(key.startswith("image") for key in first)):
            colored = {name: on_image(one.arrays, f"color{place}") for name, one in found.items()}
            for plane, picture in planes(first[f"image{place}"]).items():
                row = [Tile(picture)]
                for volume in colored.values():
                    parts = [views(channel)[plane] for channel in volume]
                    parts += [np.full_like(parts[0], 0.5)] * (_COLORS - len(parts))
                    row.append(Tile(np.stack(parts, -1)))
                rows.append(row)
                names.append("\n".join(filter(None, [f"image {first['shown'][place] + 1}", plane])))
        caption = (
            "Places of the same colour have like features, in all images of one network; two networks do not compare."
        )
        figure = tiles(rows, names=names, heads=["image", *found])
        drawings = [Drawing("maps", "principal components of dense features", figure, caption)]
        for number, (name, one) in enumerate(found.items()):
            if "attention0" in one.arrays:
                stem = "attention" if len(found) == 1 else f"attention_{number}"
                drawings.append(Drawing(stem, f"attention of {name}", _attention_figure(one.arrays), _ATTENTION))
        return drawings


_ATTENTION = (
    "Bright: what a head of the last block looks at, of the class token or, without one, on average over all tokens. Each map "
    "has its own scale from 0, so that one that is bright everywhere looks at all places alike."
)


def _attention_figure(arrays: Mapping[str, np.ndarray]) -> Any:
    rows, names, heads = [], [], 0
    for place in range(sum(key.startswith("attention") for key in arrays)):
        maps = arrays[f"attention{place}"]
        heads = min(len(maps), _HEADS)
        stack = np.concatenate([maps.mean(0, keepdims=True), maps[:heads]])
        laid = on_image({**arrays, "stack": stack, "offset": (arrays["stride"] - 1) / 2}, "stack")
        for plane, picture in planes(arrays[f"image{place}"]).items():
            rows.append([Tile(picture), *(Tile(picture, map=views(one)[plane]) for one in laid)])
            names.append("\n".join(filter(None, [f"image {arrays['shown'][place] + 1}", plane])))
    return tiles(rows, names=names, heads=["image", "mean", *(f"head {k + 1}" for k in range(heads))])


def on_image(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The map `name` (C, *s) of the arrays of findings on the grid of their images, (C, *S)."""
    stride, offset = arrays["stride"].tolist(), arrays["offset"].tolist()
    found = on_grid(torch.from_numpy(arrays[name]), arrays["image0"].shape[1:], stride=stride, offset=offset)
    return found.numpy()


def moments(images: Images, level: int) -> dict[str, np.ndarray]:
    """Mean (C,) and covariance (C, C) of the features of a level at all places of all images, in one pass, float64.

    And `between` (C,), the variance of the means of images. Each image weighs the same.

    Raises:
        NotFiniteError: a feature is NaN or infinite.
    """
    channels = images.backbone.channels[level]
    mean, square = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, channels, dtype=torch.float64)
    middles = []
    shift = None
    for batch in images.batches("dense features"):
        found = images.encode(batch["image"])[level].flatten(2)  # (B, C, P)
        check_tensors({name: one for name, one in zip(batch["id"], found, strict=True)}, "features of images")
        if shift is None:
            shift = found.mean((0, 2)).double()  # near the mean, so that sums of squares lose no digits
        centred = found.double() - shift[:, None]
        square += (torch.einsum("bcp,bdp->cd", centred, centred) / centred.shape[2]).cpu()
        middles.append(centred.mean(2).cpu())
    assert shift is not None
    every = torch.cat(middles)
    mean = every.mean(0)
    covariance = square / len(every) - mean[:, None] * mean
    between = (every - mean).square().mean(0)
    return {
        "mean": (mean + shift.cpu()).numpy(),
        "covariance": covariance.numpy(),
        "between": between.numpy(),
    }


@torch.inference_mode()
def attention(backbone: ViT, image: Tensor) -> Tensor:
    """Attention of the last block's heads to the patches: (B, C, *S) -> (B, heads, *grid), in [0, 1].

    It is that of the class token, or without one the mean over all tokens. A class token and registers take the rest.
    """
    caught: list[Any] = []
    block: Any = backbone.blocks[-1]
    handle = block.attn.register_forward_pre_hook(lambda module, inputs: caught.append(inputs))
    try:
        backbone(image)
    finally:
        handle.remove()
    tokens, turns = caught[0]
    share = token_attention(block.attn, tokens, turns)
    asked = share[:, :, 0] if backbone.config.class_token else share.mean(2)
    size = [side // by for side, by in zip(image.shape[2:], backbone.strides[-1], strict=True)]
    found: Tensor = asked[:, :, backbone.config.before :].float()
    return found.reshape(*found.shape[:2], *size)


def token_attention(module: Any, tokens: Tensor, turns: Any) -> Tensor:
    """What each token of (B, T, width) takes of each other, of each head: (B, heads, T, T), rows of sum 1."""
    parts = module.qkv(tokens).unflatten(2, (3, module.heads, -1)).permute(2, 0, 3, 1, 4)
    q, k, _ = parts.unbind()
    if turns is not None:
        q, k = turned(q, turns), turned(k, turns)
    found: Tensor = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return found
