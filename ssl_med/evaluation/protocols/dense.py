"""Linear probe of dense features: one logistic regression per region on the voxels of a frozen encoder.

A voxel's features are those of the chosen levels, interpolated linearly to its place and joined. Interpolation and a linear
map commute, so the fitted map is applied at each level's own resolution and its logits are interpolated (`LinearDecoder`):
the sliding-window test is that of a segmentation task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.evaluation.features import Features
from ssl_med.evaluation.logistic import fit_findings
from ssl_med.evaluation.protocols.core.contract import Probe, Result, Source
from ssl_med.evaluation.scores import dice_per_region
from ssl_med.evaluation.tasks import Row, Segmentation
from ssl_med.finite import check_rows
from ssl_med.networks.heads import pointwise
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.ranges import Count, Level, Positive, Range
from ssl_med.rng import seeded_generator
from ssl_med.setting import setting
from ssl_med.spec import Batch, SslMedError

PICTURES = 4  # the first test cases


@dataclass
class DenseConfig:
    """Voxels of training crops, one logistic regression per region, a threshold per region."""

    levels: tuple[Level, ...] = ()
    """levels of the encoder whose features are joined, 0: finest, -1: last; empty: all"""
    cache: str = setting(default="", affects="nothing")
    """folder of the feature files; empty: features/ in the run folder; runs that share one extract once"""
    voxels: Count = 400
    """voxels of each crop, half of them from the regions where there are enough; data.crops_per_volume crops a scan"""
    most: Count = 60000
    """largest number of voxels that are fitted; of more, a random part"""
    strengths: Annotated[int, Range(1, 1000)] = 12
    """number of L2 values, evenly spaced in the logarithm, of which validation voxels choose by their loss"""
    strength_min: Positive = 1e-6
    """smallest L2 value, on the sum of the losses"""
    strength_max: Positive = 1e5
    """largest L2 value"""
    max_iter: Count = 1000
    """iterations of L-BFGS"""

    def __post_init__(self) -> None:
        if self.strength_min > self.strength_max:
            raise SslMedError(
                f"probe.strength_min {self.strength_min:g} must not be above probe.strength_max {self.strength_max:g}"
            )


class Dense(Probe):
    """One logistic regression per region on voxels; whole cases are predicted by sliding windows."""

    Config = DenseConfig
    config: DenseConfig
    targets = ("mask",)

    def result(self, source: Source) -> Result:
        """Fits voxels of training crops, chooses thresholds on validation cases, answers on test cases."""
        config, names = self.config, source.spec.class_names
        generator = seeded_generator(source.seed, 0xDE5E, device=torch.device("cpu"))

        def samples_of(batch: Batch) -> tuple[Sequence[str], Tensor, Tensor]:
            return sample_voxels(source.backbone, batch, source.levels, config.voxels, generator)

        parts = ("train", "val")
        train, val = source.features(samples_of, kind="dense", parts=parts, crops=True, voxels=config.voxels)
        weight, bias, chosen, notes = fit_voxels(config, train, val, generator=generator)
        decoder = LinearDecoder(source.backbone, source.levels, len(names)).to(source.device)
        decoder.fill(weight, bias)
        # nothing is trained here, and regressions are one by region
        plain = replace(source.task, deep_supervision=False, batch_dice=False)
        plain = replace(plain, loss="auto") if plain.loss == "dice_ce" else plain
        task = Segmentation(plain, source.spec, source.backbone, decoder).to(source.device).eval()
        set_head(task, torch.zeros(len(names)))
        threshold = Threshold(len(names))
        for batch, logits in predictions(source, task, decoder, "val"):
            threshold.add(logits[0], batch["mask"][0])
        best = threshold.best()
        set_head(task, best)
        rows: list[Row] = []
        pictures: dict[str, dict[str, np.ndarray]] = {}
        for batch, logits in predictions(source, task, decoder, "test"):
            found = task.test_rows(logits, batch)
            rows += [{**row, "subject": who} for row, who in zip(found, batch["subject"].tolist(), strict=True)]
            if len(pictures) < PICTURES:
                pictures[batch["id"][0]] = task.picture(logits, batch)
        chosen = {f"l2/{name}": chosen[f"l2/{k}"] for k, name in enumerate(names)}
        chosen |= {f"threshold/{name}": float(best[k]) for k, name in enumerate(names)}
        about = f"voxel features of levels {list(source.levels)}, {len(train)} training voxels, thresholds by validation Dice"
        return Result(task.metric, task.summarize(rows), rows, chosen, [about, *notes], pictures)


@torch.inference_mode()
def predictions(source: Source, task: Segmentation, decoder: LinearDecoder, part: str) -> Iterator[tuple[Any, Tensor]]:
    """Batches of a part with their logits (B, K, *S)."""
    for batch in source.batches(part):
        logits = task.predict(batch["image"], source.backbone, decoder)
        check_rows(batch["id"], logits, "answers")
        yield batch, logits


class LinearDecoder(Decoder):
    """Sum of linear maps of levels, each interpolated to the image's size: a decoder without context.

    Args:
        backbone: whose pyramid it reads.
        levels: numbers of the levels.
        regions: K, its output channels.
    """

    def __init__(self, backbone: Backbone, levels: tuple[int, ...], regions: int) -> None:
        super().__init__(skips=True)
        self.levels, self.strides, self.channels = levels, backbone.strides, (regions,)
        self.maps = nn.ModuleList(
            pointwise(backbone.channels[level], regions, backbone.spatial_dims) for level in levels
        )

    def scales(self, pyramid: list[Tensor]) -> Iterator[Tensor]:
        """Pyramid -> (B, K, *S), the only scale."""
        size = [n * by for n, by in zip(pyramid[0].shape[2:], self.strides[0], strict=True)]
        parts = [resize(linear(pyramid[level]), size) for level, linear in zip(self.levels, self.maps, strict=True)]
        yield torch.stack(parts).sum(0)

    def fill(self, weight: Tensor, bias: Tensor) -> None:
        """From a fit: weight (K, D), bias (K,)."""
        with torch.no_grad():
            start = 0
            for number, linear in enumerate(self.maps):
                assert isinstance(linear, nn.Conv2d | nn.Conv3d)
                width = linear.in_channels
                linear.weight.copy_(weight[:, start : start + width].reshape(linear.weight.shape))
                assert linear.bias is not None
                linear.bias.copy_(bias if number == 0 else torch.zeros_like(bias))
                start += width


def resize(x: Tensor, size: list[int]) -> Tensor:
    """Linear interpolation of (B, C, *T) to (B, C, *size), voxel edges aligned."""
    return F.interpolate(x, size, mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=False)


def sample_voxels(
    backbone: Backbone, batch: Batch, levels: tuple[int, ...], count: int, generator: torch.Generator
) -> tuple[list[str], Tensor, Tensor]:
    """Features and regions of `count` voxels of each crop, half of them in a region where there are as many.

    Args:
        backbone: the encoder.
        batch: `image` (B, C, *S) and `mask` (B, K, *S).
        levels: whose features are joined.
        count: V.
        generator: chooses voxels, on the CPU.

    Returns:
        names of the crops' cases, (B V, D) features and (B V, K) regions, 0 or 1.
    """
    image, mask = batch["image"], batch["mask"].float()
    shape = image.shape[2:]
    inside = mask.flatten(2).amax(1).cpu()  # (B, voxels)
    places = torch.stack([_draw(row, count, generator) for row in inside]).to(image.device)  # (B, V)
    regions = mask.flatten(2).gather(2, places[:, None].expand(-1, mask.shape[1], -1))
    pyramid = backbone(image)
    grid = _grid(places, tuple(shape))
    found = [
        F.grid_sample(pyramid[level].float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        for level in levels
    ]
    x = torch.cat([f.flatten(2) for f in found], 1)  # (B, D, V)
    names = [name for name in batch["id"] for _ in range(count)]
    return names, x.transpose(1, 2).flatten(0, 1), regions.transpose(1, 2).flatten(0, 1)


def _draw(inside: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` flat indices: half of the labelled voxels' where there are as many, the rest of all voxels."""
    labelled = inside.nonzero()[:, 0]
    chosen = labelled[torch.randperm(len(labelled), generator=generator)[: count // 2]]
    rest = torch.randint(0, len(inside), (count - len(chosen),), generator=generator)
    return torch.cat([chosen, rest])


def _grid(places: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, V) flat indices -> (B, V, 1[, 1], dims) coordinates of `grid_sample`, last axis first."""
    coordinates = []
    for axis in reversed(range(len(shape))):
        below = 1
        for size in shape[axis + 1 :]:
            below *= size
        index = places // below % shape[axis]
        coordinates.append((2 * index + 1) / shape[axis] - 1)
    grid = torch.stack(coordinates, -1).float()
    return grid.view(*places.shape, *(1,) * (len(shape) - 1), len(shape))


def fit_voxels(
    config: DenseConfig, train: Features, val: Features, *, generator: torch.Generator
) -> tuple[Tensor, Tensor, dict[str, float], tuple[str, ...]]:
    """Weight (K, D) and bias (K,) of each region, by the loss on validation voxels.

    Returns:
        weight, bias, what was chosen, notes.
    """
    if len(train) > config.most:
        train = train.rows(torch.randperm(len(train), generator=generator)[: config.most].numpy())
    empty = (train.label.sum(0) == 0).nonzero()[:, 0].tolist()
    if empty:
        raise SslMedError(
            f"region number {empty[0]} has no voxel in the training crops; take more subjects or data.crops_per_volume"
        )
    grid = torch.logspace(
        torch.tensor(config.strength_min).log10().item(),
        torch.tensor(config.strength_max).log10().item(),
        config.strengths,
        dtype=torch.float64,
    )
    fits = fit_findings(train.x, train.label, grid, max_iter=config.max_iter)
    logits = fits.logits(val.x)
    target = val.label.double().expand_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)  # (G, K)
    best = loss.argmin(0)
    regions = torch.arange(loss.shape[1])
    chosen = {f"l2/{k}": float(grid[g]) for k, g in enumerate(best)}
    notes = () if fits.converged == 1 else (f"{1 - fits.converged:.0%} of the regressions stopped at probe.max_iter",)
    return fits.weight[best, regions], fits.bias[best, regions], chosen, notes


class Threshold:
    """Logit above which a voxel belongs to a region: the one with the highest mean Dice over validation cases.

    Voxels are drawn with more of the regions than there are, so 0 would be too low.
    """

    def __init__(self, regions: int) -> None:
        self.options = torch.linspace(-3, 6, 37)
        self.total = torch.zeros(len(self.options), regions, dtype=torch.float64)
        self.cases = 0

    def add(self, logits: Tensor, mask: Tensor) -> None:
        """A case: logits and mask (K, *S)."""
        truth = mask > 0.5
        for row, option in enumerate(self.options.tolist()):
            self.total[row] += dice_per_region(logits > option, truth).cpu()
        self.cases += 1

    def best(self) -> Tensor:
        """(K,) thresholds; 0 without cases."""
        if not self.cases:
            return torch.zeros(self.total.shape[1])
        return self.options[self.total.argmax(0)]


def set_head(task: Segmentation, threshold: Tensor) -> None:
    """Makes the task's head pass the decoder's logits on, less the threshold (K,)."""
    conv = task.head.conv
    assert isinstance(conv, nn.Conv2d | nn.Conv3d)
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(torch.eye(len(threshold)).reshape(conv.weight.shape))
        conv.bias.copy_(-threshold)
