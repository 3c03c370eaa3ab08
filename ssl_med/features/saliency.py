"""Where a network looks: how much its pooled features change when a box covers a part of the image.

Paper: Anton et al., "How well do self-supervised models transfer to medical imaging?", Journal of Imaging 2022, Sec. 4.4.1
and Table A7; after Ericsson et al., "How well do self-supervised models transfer?", CVPR 2021.

A box of b pixels stands at every position p. With features f of the image and f_p of the image that the box covers,

- change s(p) = |f - f_p|_2 / |f|_2;
- map m(x) = mean of s over the prod(b) boxes that cover pixel x, for all pixels that as many boxes can cover. This is the
  average pooling of s by a window of b, exactly, so that a map is smaller than its image by b - 1 at each border;
- attentive diffusion = share of the map above its own mean. A network of low diffusion looks at few places.

The box shows the mean colour where the weights bring a mean of their channels (`backbone.input_mean`), as in the paper, and
else 0: black in [0, 1], the mean of standardised images.

Where we deviate: images keep their size (the paper brings them to 242 x 242 and takes one image per data set); volumes have
boxes of three sides, and steps above 1 interpolate s between positions, which is approximate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.drawing import Tile, planes, tiles, views
from ssl_med.features.core.images import Images
from ssl_med.features.core.published import DIFFUSION, beside
from ssl_med.finite import check_rows
from ssl_med.networks.pyramid import Backbone
from ssl_med.ranges import Count, Natural, Side
from ssl_med.spec import AXIS_NAMES, SslMedError
from ssl_med.transforms._axes import along_axes
from ssl_med.transforms._batched import box_mask

_BOX = 10  # pixels, the paper's


@dataclass
class SaliencyConfig:
    """The box that covers a part of the image, and its steps."""

    box: tuple[Side, ...] = ()
    """sides of the box in voxels, one for all axes or one each; empty: 10, in volumes an eighth of each side up to 10"""
    stride: tuple[Side, ...] = ()
    """steps of the box, one for all axes or one each; above 1 the map is approximate; empty: 1, in volumes half the box"""
    chunk: Count = 64
    """covered images that go through the encoder at once"""
    pictures: Natural = 4
    """images whose maps are drawn and kept, the first ones"""


class Saliency(Analysis):
    """Occlusion maps and their attentive diffusion."""

    Config = SaliencyConfig
    paper = "Anton et al. 2022, Sec. 4.4.1"

    def measure(self, images: Images) -> Findings:
        """Numbers `diffusion` (mean over images), `diffusion_sd` and `change`, the mean of the maps."""
        box, stride = self._box(images), self._stride(images)
        fill = covered_value(images.backbone, images.spec.in_channels)
        rows: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        for batch in images.batches("images"):
            for name, image in zip(batch["id"], batch["image"], strict=True):
                number = len(rows)

                def make(image: Tensor = image, name: str = name) -> dict[str, np.ndarray]:
                    def features_of(covered: Tensor) -> Tensor:
                        found = images.pooled(covered)
                        check_rows([name], found, "features")
                        return found

                    found = occlusion_map(
                        features_of,
                        image,
                        box=box,
                        stride=stride,
                        fill=fill,
                        chunk=self.config.chunk,
                        shown=images.shown,
                    )
                    return {"map": found.cpu().numpy()}

                found = images.kept(f"saliency-{number}", make)["map"]
                rows.append(
                    {"case": name, "diffusion": diffusion(found), "change": float(found.mean(dtype=np.float64))}
                )
                if number < self.config.pictures:
                    arrays |= {f"image{number}": image.cpu().numpy(), f"map{number}": found}
        values = np.array([row["diffusion"] for row in rows])
        known = values[np.isfinite(values)]
        numbers = {
            "diffusion": float(known.mean()) if len(known) else math.nan,
            "diffusion_sd": float(known.std(ddof=1)) if len(known) > 1 else math.nan,
            "change": float(np.mean([row["change"] for row in rows])),
            "images": float(len(rows)),
        }
        return Findings(numbers, "diffusion", rows, arrays, self._notes(images, box, stride, len(rows) - len(known)))

    def passes(self, images: Images) -> int:
        """Each image with the box at each position, and without it."""
        places = positions_of(images.spec.patch_size, self._box(images), self._stride(images))
        return images.count * (math.prod(map(len, places)) + 1)

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """Images, and beside them the map of each network laid over what the map covers."""
        first = next(iter(found.values()))
        rows, names = [], []
        for number in range(sum(key.startswith("image") for key in first.arrays)):
            image = first.arrays[f"image{number}"]
            for plane, picture in planes(image).items():
                row = [Tile(picture)]
                for one in found.values():
                    laid = views(_laid(one.arrays[f"map{number}"], image.shape[1:]))[plane]
                    row.append(Tile(picture, map=laid, text=f"diffusion {one.rows[number]['diffusion']:.2f}"))
                rows.append(row)
                names.append("\n".join(filter(None, [str(first.rows[number]["case"]), plane])))
        if not rows:
            return ()
        figure = tiles(rows, names=names, heads=["image", *found])
        caption = (
            "Bright: covering this place changes the features most; each map has its own scale, and leaves out the border, "
            "which fewer boxes reach. A low diffusion: few places count."
        )
        return [Drawing("saliency", "occlusion maps", figure, caption)]

    def _box(self, images: Images) -> tuple[int, ...]:
        shape = images.spec.patch_size
        usual = [_BOX] * len(shape) if len(shape) == 2 else [min(_BOX, max(2, side // 8)) for side in shape]
        box = for_each_axis(self.config.box or usual, len(shape), "features.box")
        for axis, side, mine in zip(AXIS_NAMES[len(shape)], shape, box, strict=True):
            if 2 * (mine - 1) >= side:
                raise SslMedError(
                    f"features.box is {mine} along {axis}, and images have {side} pixels there: no pixel is covered from all "
                    f"sides; take at most {(side + 1) // 2}"
                )
        return box

    def _stride(self, images: Images) -> tuple[int, ...]:
        dims, box = len(images.spec.patch_size), self._box(images)
        usual = [1] * dims if dims == 2 else [max(1, side // 2) for side in box]
        return for_each_axis(self.config.stride or usual, dims, "features.stride")

    def _notes(self, images: Images, box: Sequence[int], stride: Sequence[int], unknown: int) -> list[str]:
        shown = "the mean colour of the weights' training images" if images.backbone.config.input_mean else "0"
        notes = [f"a box of {' x '.join(map(str, box))} that shows {shown}"]
        if max(stride) > 1:
            steps = " x ".join(map(str, stride))
            notes.append(f"approximate: the box moved by {steps}, changes between its positions are interpolated")
        if unknown:
            notes.append(f"{unknown} images have features of 0 and no map")
        return notes + beside(images.spec.name, DIFFUSION, where="Table A7", what="attentive diffusion of one image")


def _laid(found: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The map above its least value, in the middle of an image of `shape`; nan around it."""
    whole = np.full(shape, np.nan)
    whole[tuple(slice((s - m) // 2, (s - m) // 2 + m) for s, m in zip(shape, found.shape, strict=True))] = (
        found - found.min()
    )
    return whole


def covered_value(backbone: Backbone, channels: int) -> Tensor:
    """(C,) what the box shows: the mean that the network subtracts, else 0."""
    mean = torch.tensor(backbone.config.input_mean or (0.0,))
    return mean if len(mean) == channels else mean.mean().expand(channels)


def for_each_axis(values: Sequence[int], dims: int, key: str) -> tuple[int, ...]:
    """One number for all axes, or one each, as one each.

    Raises:
        SslMedError: another number of them.
    """
    if len(values) not in (1, dims):
        raise SslMedError(f"{key} has {len(values)} numbers and images {dims} axes; give one for all, or one each")
    return tuple(values) * (dims if len(values) == 1 else 1)


def positions_of(shape: Sequence[int], box: Sequence[int], stride: Sequence[int]) -> list[list[int]]:
    """First pixels of the box along each axis: in steps, and the last one in any case."""
    return [
        sorted({*range(0, side - mine + 1, step), side - mine})
        for side, mine, step in zip(shape, box, stride, strict=True)
    ]


def occlusion_map(
    features_of: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    box: Sequence[int],
    stride: Sequence[int],
    fill: Tensor,
    chunk: int,
    shown: Callable[..., Any] = lambda steps, doing: steps,
) -> Tensor:
    """The map of one image.

    Args:
        features_of: (B, C, *S) -> (B, D).
        image: (C, *S).
        box: sides b of the box.
        stride: its steps.
        fill: (C,) what it shows.
        chunk: covered images at once.
        shown: draws a progress bar over the portions.

    Returns:
        (*(S - 2 b + 2)) float32; nan where the features of the image are 0.
    """
    shape = image.shape[1:]
    places = positions_of(shape, box, stride)
    corners = torch.tensor(list(product(*places)), device=image.device)  # (P, D)
    size = torch.tensor([tuple(box)], device=image.device)
    value = fill.to(image).view(-1, *[1] * len(shape))
    whole = features_of(image[None]).double()
    changes = []
    for part in shown(torch.split(corners, chunk), "positions"):
        covered = box_mask(part[:, None], size.expand(len(part), 1, -1), shape)
        features = features_of(torch.where(covered, value, image)).double()
        changes.append((features - whole).norm(dim=1))
    change = (torch.cat(changes) / whole.norm()).cpu().view(1, 1, *map(len, places))
    if max(stride) > 1:
        change = along_axes(
            change, [_between(place, side - mine + 1) for place, side, mine in zip(places, shape, box, strict=True)]
        )
    pool = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d
    found: Tensor = pool(change, tuple(box), stride=1)[0, 0].float()
    return found


def _between(places: Sequence[int], count: int) -> Tensor:
    """(1, count, P): linear interpolation from values at P places to all positions."""
    at, known = torch.arange(count, dtype=torch.float64), torch.tensor(places, dtype=torch.float64)
    right = torch.searchsorted(known, at).clamp(1, max(1, len(known) - 1))
    if len(known) == 1:
        return torch.ones(1, count, 1, dtype=torch.float64)
    left = right - 1
    share = (at - known[left]) / (known[right] - known[left])
    weight = torch.zeros(count, len(known), dtype=torch.float64)
    weight.scatter_(1, left[:, None], 1 - share[:, None]).scatter_(1, right[:, None], share[:, None])
    return weight[None]


def diffusion(found: np.ndarray) -> float:
    """Share of a map above its own mean, strictly; 0 for a map that is the same everywhere, nan for one that holds nan."""
    if not np.isfinite(found).all():
        return math.nan
    wide = found.astype(np.float64)
    return float((wide > wide.mean()).mean()) if wide.max() > wide.min() else 0.0
