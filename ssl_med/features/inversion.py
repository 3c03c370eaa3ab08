"""What of an image is left in its features: an image is made whose features are the same.

Paper: Anton et al. 2022, Sec. 4.4.2; Zhao et al., ICLR 2021; Ulyanov et al., "Deep image prior", CVPR 2018. For an image x
and the features phi(x) of one level, a skip network G (`core/image_prior.py`) is trained from scratch so that of fixed noise z
it makes an image of the same features:

    min over the weights of G of MSE(phi(G(z)), phi(x)),   z ~ U(0, 0.1), 32 channels.

What phi does not see, G fills in as convolutional networks do: smoothly. Given are the loss as a share of its start, and the
likeness of image and reconstruction by multi-scale structural similarity (Wang et al. 2003), 1 for equal images, once as they
are (`similarity_raw`) and once with the reconstruction's brightness and contrast fitted to the image's by least squares
(`similarity`): many networks do not see these two, and pictures are drawn with them fitted.

Where we deviate: 300 steps of Adam at 0.01 in place of 1,000 at 0.001, which `features.iterations=1000 features.lr=0.001`
gives; fewer levels where an image is small, and smaller widths in volumes; image and reconstruction are normalised alike by
the network's own `input_mean` and `input_std` (the official code left both out). The paper's distance, LPIPS, needs weights
that are downloaded and is not offered: Tables A4 to A6 do not compare with our similarity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.evaluation.features import arithmetic
from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.drawing import Tile, curves, planes, tiles
from ssl_med.features.core.image_prior import SkipNetwork, levels_for
from ssl_med.features.core.images import Images
from ssl_med.finite import check_rows
from ssl_med.ranges import Count, Level, Natural, Positive, Side, Width
from ssl_med.spec import SslMedError

_WIDTHS = {2: (16, 32, 64, 128, 128, 128), 3: (8, 16, 32, 64)}
_KERNELS = {2: (7, 7, 5, 5, 3, 3), 3: (3, 3, 3, 3)}
_NOISE = 0.1
_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest scale first
_SIGMA = 1.5


@dataclass
class InversionConfig:
    """Which features, and how the image is looked for."""

    layer: Level = -1
    """level of the pyramid whose features the image must have, 0 the finest, -1 the last"""
    iterations: Count = 300
    """optimiser steps for each image; the paper has 1,000. Each costs a forward and backward pass of both networks"""
    lr: Positive = 0.01
    """learning rate of Adam; the paper has 0.001"""
    code: Width = 32
    """channels of the noise from which the image is made"""
    widths: tuple[Width, ...] = ()
    """channels of the levels of the network that makes it, finest first; empty: [16,32,64,128,128,128], volumes [8,16,32,64]"""
    kernels: tuple[Side, ...] = ()
    """sides of its convolutions, odd, as many; empty: [7,7,5,5,3,3], in volumes 3"""
    pictures: Natural = 4
    """images that are drawn, the first ones"""

    def __post_init__(self) -> None:
        if any(side % 2 == 0 for side in self.kernels):
            raise SslMedError(f"features.kernels is {list(self.kernels)}; each must be odd")
        if self.kernels and self.widths and len(self.kernels) != len(self.widths):
            raise SslMedError(
                "features.kernels and features.widths have different lengths; give one number for each level"
            )


class Inversion(Analysis):
    """Reconstructions of images from their features by a deep image prior."""

    Config = InversionConfig
    paper = "Anton et al. 2022, Sec. 4.4.2; Ulyanov et al. 2018"

    def measure(self, images: Images) -> Findings:
        """Numbers `similarity`, `similarity_raw` and `loss` (share of its start), means over images; a row for each."""
        levels = len(images.backbone.channels)
        if not -levels <= self.config.layer < levels:
            raise SslMedError(
                f"features.layer is {self.config.layer}; the network has {levels} levels, 0 to {levels - 1}"
            )
        rows: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        losses = []
        for batch in images.batches("images"):
            for name, image in zip(batch["id"], batch["image"], strict=True):
                number = len(rows)
                make = partial(self._inverted, images, image, name, number)
                found = images.kept(f"inversion-{number}", make)
                made = torch.from_numpy(found["image"])
                share = found["loss"] / max(float(found["loss"][0]), 1e-300)
                target = image.cpu()
                alike = {
                    "similarity": likeness(matched(made, target), target),
                    "similarity_raw": likeness(made, target),
                }
                rows.append({"case": name, **alike, "loss": float(share[-1])})
                losses.append(share)
                if number < self.config.pictures:
                    arrays |= {f"image{number}": target.numpy(), f"made{number}": matched(made, target).numpy()}
        arrays["loss"] = np.mean(losses, 0)
        numbers = {key: float(np.mean([row[key] for row in rows])) for key in ("similarity", "similarity_raw", "loss")}
        notes = [
            f"level {self.config.layer}, {self.config.iterations} steps of Adam at {self.config.lr:g}; similarity is "
            f"multi-scale SSIM at {_scales(images.spec.patch_size)} scales, not the LPIPS distance of Anton et al. 2022"
        ]
        return Findings(numbers, "similarity", rows, arrays, notes)

    def passes(self, images: Images) -> int:
        """Each image at each step."""
        return images.count * int(self.config.iterations)

    def seconds(self, images: Images) -> float:
        """From one step, which costs more than an image through the encoder."""
        image = next(iter(images.load()))["image"][0].to(images.device)
        step = images.timed(_Search(self.config, images, image, 0).step)
        return self.passes(images) * step

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """Images beside what each network's features leave of them; and how the loss falls."""
        first = next(iter(found.values()))
        rows, names = [], []
        for number in range(sum(key.startswith("image") for key in first.arrays)):
            image = first.arrays[f"image{number}"]
            low, high = float(image.min()), float(image.max())
            shown = {network: planes(one.arrays[f"made{number}"].clip(low, high)) for network, one in found.items()}
            for plane, picture in planes(image).items():
                told = {network: one.rows[number] for network, one in found.items()}
                made = [
                    Tile(shown[network][plane], text=f"similarity {float(row['similarity']):.2f}", low=low, high=high)
                    for network, row in told.items()
                ]
                rows.append([Tile(picture, low=low, high=high), *made])
                names.append("\n".join(filter(None, [str(first.rows[number]["case"]), plane])))
        drawings = []
        if rows:
            figure = tiles(rows, names=names, heads=["image", *found])
            caption = "What is lost or changed, the features do not hold. Brightness and contrast are fitted."
            drawings.append(Drawing("inversion", "reconstructions from features", figure, caption))
        lines = {network: (range(len(one.arrays["loss"])), one.arrays["loss"]) for network, one in found.items()}
        figure = curves(lines, title="Distance of features", x="step", y="share of its start", log="y")
        caption = "A line that is still falling: more steps (features.iterations) give a closer image."
        drawings.append(Drawing("inversion_loss", "loss of the inversion", figure, caption))
        return drawings

    def _inverted(self, images: Images, image: Tensor, name: str, number: int) -> dict[str, np.ndarray]:
        search = _Search(self.config, images, image, number)
        losses = [search.step() for _ in images.shown(range(self.config.iterations), "steps")]
        values = torch.stack(losses).double().cpu()
        check_rows([name] * len(values), values[:, None], "features")
        return {"image": search.image().cpu().numpy(), "loss": values.numpy()}


class _Search:
    """The search for one image: its network, noise and optimiser."""

    def __init__(self, config: InversionConfig, images: Images, image: Tensor, number: int) -> None:
        self.images, self.layer, self.shape = images, config.layer, image.shape[1:]
        dims = len(self.shape)
        widths = config.widths or _padded(_WIDTHS[dims], len(config.kernels) or len(_WIDTHS[dims]))
        kernels = config.kernels or _padded(_KERNELS[dims], len(widths))
        levels = levels_for(self.shape, len(widths))
        sides = [-(-side // 2**levels) * 2**levels for side in self.shape]
        generator = torch.Generator().manual_seed(images.seed * 1_000_003 + number)
        self.noise = (torch.rand(1, config.code, *sides, generator=generator) * _NOISE).to(image.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            network = SkipNetwork(
                dims, code=config.code, out_channels=len(image), widths=widths[:levels], kernels=kernels[:levels]
            )
        self.network = network.to(image.device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.lr)
        with torch.no_grad():
            self.wanted = self._features(image[None])

    def image(self) -> Tensor:
        """(C, *S), as the network makes it now."""
        with torch.no_grad():
            return self._made()[0]

    def step(self) -> Tensor:
        """One step of the optimiser; the loss before it."""
        with torch.enable_grad():
            loss = F.mse_loss(self._features(self._made()), self.wanted)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.detach()

    def _made(self) -> Tensor:
        made: Tensor = self.network(self.noise)
        for axis, side in enumerate(self.shape):
            made = made.narrow(2 + axis, 0, side)
        return made

    def _features(self, x: Tensor) -> Tensor:
        with arithmetic(self.images.device, self.images.precision):
            pyramid = self.images.backbone(x)
        level: Tensor = pyramid[self.layer].float()
        return level


def _padded(values: Sequence[int], count: int) -> tuple[int, ...]:
    """The first `count` values; the last one again where there are fewer."""
    return tuple(values[min(k, len(values) - 1)] for k in range(count))


def _scales(shape: Sequence[int]) -> int:
    """Scales of the multi-scale SSIM for which the coarsest image still holds a window."""
    scales = 1
    while scales < len(_BETAS) and min(shape) >= 11 * max(1, scales) ** 2 and min(shape) >= 2 ** (scales + 1):
        scales += 1
    return scales


def matched(made: Tensor, image: Tensor) -> Tensor:
    """(C, *S): a made + b, closest to the image in each channel, a not below 0."""
    x, y = made.flatten(1).double(), image.flatten(1).double()
    mean_x, mean_y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    slope = ((x - mean_x) * (y - mean_y)).sum(1, keepdim=True) / (x - mean_x).square().sum(1, keepdim=True).clamp_min(
        1e-12
    )
    return ((x - mean_x) * slope.clamp_min(0) + mean_y).view_as(image).to(image.dtype)


def likeness(made: Tensor, image: Tensor) -> float:
    """Multi-scale SSIM of two images (C, *S), on the range of the second; as many scales as it is large enough for."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    low, span = image.min(), (image.max() - image.min()).clamp_min(1e-12)
    x, y = (((one - low) / span).clamp(0, 1)[None] for one in (made, image))
    betas = torch.tensor(_BETAS[: _scales(image.shape[1:])])
    usual = int(3.5 * _SIGMA + 0.5)  # half the side of the window, pixels
    half = min(usual, (min(image.shape[1:]) - 1) // 2)
    found = ms_ssim(
        x,
        y,
        sigma=half / 3.5 if half < usual else _SIGMA,
        kernel_size=2 * half + 1,
        data_range=1.0,
        betas=tuple((betas / betas.sum()).tolist()),
        normalize="relu",
    )
    return float(found)
