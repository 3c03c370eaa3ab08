"""What `make bench` measures against: transforms, losses, a training step and crop pairs in the form their definitions suggest.

They are written from the papers and the descriptions in `ssl_med`: one image after the other, one window after the other,
numpy for what lies inside a window, autograd for gradients. Transforms take and give (1, *S) float32 in [0, 1]; scalars are
drawn by `random`, arrays by numpy's Mersenne Twister in double precision, as is usual in such code.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.core.crops import resize
from experiments.bench.scans import CROP
from ssl_med.methods.core.pair import Embedding
from ssl_med.methods.models_genesis import ModelsGenesisConfig
from ssl_med.methods.pcrl import PCRL
from ssl_med.networks.ema import EMA

Image = NDArray[np.float32]
Box = tuple[slice, ...]
_NODES = 100_000  # points on a Bezier curve, as in the official code
_BOXES, _CHAIN, _EDGE = 5, 0.95, 3
_DRAWS = 52  # boxes that PCRL's code draws until two overlap enough, as counted when it was run

# --- Models Genesis (Zhou et al. 2021) --------------------------------------------------------------------------------


def local_shuffle(x: Image, *, windows: int) -> Image:
    """Window after window of a volume of one channel: its original voxels, in random order, overwrite the current content."""
    y = x.copy()
    rows, columns, slices = x.shape[1:]
    for _ in range(windows):
        height, width, depth = (
            random.randint(1, rows // 10),
            random.randint(1, columns // 10),
            random.randint(1, slices // 10),
        )
        i, j, k = (
            random.randint(0, rows - height),
            random.randint(0, columns - width),
            random.randint(0, slices - depth),
        )
        values = x[0, i : i + height, j : j + width, k : k + depth].flatten()
        np.random.shuffle(values)
        y[0, i : i + height, j : j + width, k : k + depth] = values.reshape(height, width, depth)
    return y


def nonlinear(x: Image) -> Image:
    """Cubic Bezier curve from (0, 0) to (1, 1), or falling, by 100,000 nodes and linear interpolation between them."""
    t = np.linspace(0.0, 1.0, _NODES)
    weights = np.stack([math.comb(3, i) * t**i * (1 - t) ** (3 - i) for i in range(4)])
    across, up = (np.sort(np.array([0.0, random.random(), random.random(), 1.0]) @ weights) for _ in range(2))
    if random.random() < 0.5:
        up = up[::-1]
    return np.interp(x, across, up).astype(np.float32)


def inpaint(x: Image) -> Image:
    """Noise in up to five boxes."""
    y = x.copy()
    for _ in range(_BOXES):
        if random.random() >= _CHAIN:
            break
        box, size = _box(x.shape, [random.randint(s // 6, s // 3) for s in x.shape[1:]])
        y[(slice(None), *box)] = np.random.rand(len(x), *size)
    return y


def outpaint(x: Image) -> Image:
    """Noise, and the original in one to five boxes."""
    y = np.random.rand(*x.shape).astype(np.float32)
    for number in range(_BOXES):
        if number and random.random() >= _CHAIN:
            break
        box, _ = _box(x.shape, [s - random.randint(3 * s // 7, 4 * s // 7) for s in x.shape[1:]])
        y[(slice(None), *box)] = x[(slice(None), *box)]
    return y


def _box(shape: tuple[int, ...], size: list[int]) -> tuple[Box, list[int]]:
    start = [random.randint(_EDGE, side - s - _EDGE) for side, s in zip(shape[1:], size, strict=True)]
    return tuple(slice(a, a + s) for a, s in zip(start, size, strict=True)), size


def generate_pair(image: Image, config: ModelsGenesisConfig) -> tuple[Image, Image]:
    """Corrupted input and target of one image; flips along each axis alike for both."""
    target = image
    for axis in range(1, image.ndim):
        if random.random() < config.flip:
            target = np.flip(target, axis)
    x = target = np.ascontiguousarray(target)
    if random.random() < config.shuffle:
        x = local_shuffle(x, windows=config.windows)
    if random.random() < config.nonlinear:
        x = nonlinear(x)
    if random.random() < config.paint:
        x = inpaint(x) if random.random() < config.inpaint_rate else outpaint(x)
    return x, target


# --- losses -----------------------------------------------------------------------------------------------------------


def info_nce(q: Tensor, k: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of the concatenated logits (He et al. 2020, algorithm 1), with the queue copied for the backward pass.

    q, k: (B, d); queue: (d, K), unit columns.
    """
    q, k = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1)
    positive = torch.einsum("nc,nc->n", q, k)[:, None]
    negative = torch.einsum("nc,ck->nk", q, queue.clone())
    logits = torch.cat([positive, negative], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


def nt_xent(z1: Tensor, z2: Tensor, *, temperature: float) -> Tensor:
    """All similarities, those of the anchors to themselves cut out, then cross-entropy (Chen et al. 2020, eq. 1)."""
    count = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    others = ~torch.eye(2 * count, dtype=torch.bool, device=z.device)
    logits = ((z @ z.T) / temperature)[others].view(2 * count, 2 * count - 1)
    row = torch.arange(count, device=z.device)
    return F.cross_entropy(logits, torch.cat([row + count - 1, row]))


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Clusters scaled to 1 / K and samples to 1 / B in turn, on the whole matrix (Caron et al. 2020); (B, K) -> (B, K)."""
    shares = torch.exp(scores / epsilon).T
    clusters, samples = shares.shape
    shares /= shares.sum()
    for _ in range(iterations):
        shares /= shares.sum(1, keepdim=True)
        shares /= clusters
        shares /= shares.sum(0, keepdim=True)
        shares /= samples
    return (shares * samples).T


# --- PCRL -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def update_teacher(teacher: EMA, online: nn.Module, decay: float) -> None:
    """Parameter after parameter, then buffer after buffer, with the law of `EMA.update`."""
    done = int(teacher.updates)
    for weight, new in zip(teacher.module.parameters(), online.parameters(), strict=True):
        weight.data = weight.data * decay + new.data * (1 - decay)
    slow = min(decay, (1 + done) / (10 + done))
    for mine, theirs in zip(teacher.module.buffers(), online.buffers(), strict=True):
        mine.data = mine.data * slow + theirs.data * (1 - slow) if mine.is_floating_point() else theirs.data.clone()
    teacher.updates += 1


def pcrl_loss(method: PCRL, views: dict[str, Tensor]) -> Tensor:
    """`PCRL.terms` with the losses of this file; values are read on the way, as training loops that print them do."""
    c = method.config
    ordinary = method.backbone(views["input_o"])
    q = F.normalize(method.projector(method.backbone.pool(ordinary)).float(), dim=1)
    with torch.no_grad():
        momentum, k = method.teacher(views["input_m"])
        k = F.normalize(k.float(), dim=1)
    contrast = info_nce(q, k, method.queue.keys, temperature=c.temperature)
    method.queue.push(k)
    restored = method.restore(method.branches(ordinary, momentum, views))
    errors = [F.mse_loss(x.float(), views[f"target_{key}"]) for key, x in restored.items()]
    for value in (contrast, *errors):
        value.item()
    loss: Any = c.contrast_weight * contrast + c.restore_weight * sum(errors)
    assert isinstance(loss, Tensor)
    return loss


def pcrl_after_step(method: PCRL) -> None:
    """The teacher follows."""
    update_teacher(method.teacher, Embedding(method.backbone, method.projector), method.config.momentum)


def authors_pair(
    unit: NDArray[Any], size: Sequence[int], pair: Sequence[NDArray[Any]], *, rng: np.random.Generator
) -> list[torch.Tensor]:
    """What an accepted pair costs in the authors' preprocessing: boxes drawn one by one, copies, loops over voxels.

    Two boxes are drawn and their overlap taken, `_DRAWS` times; for each crop the volume is copied, the crop resized, and its
    tissue counted voxel by voxel. The pair itself is given, one that the filter lets pass, so that acceptance is equal and no
    rejected attempt, of which the procedure makes several a pair, is counted against it.

    Args:
        unit: the scan, windowed to [0, 1] in double precision once.
        size: of both crops.
        pair: their starts.
        rng: of the boxes.
    """
    for _ in range(_DRAWS):
        starts = rng.integers(0, np.array(unit.shape) - np.array(size) + 1, (2, 3))
        shared = math.prod(int(max(0, n - abs(a - b))) for n, a, b in zip(size, *starts, strict=True))
        _ = shared / (2 * math.prod(size) - shared)
    found = []
    for start in pair:
        crop = unit.copy()[tuple(slice(int(a), int(a) + n) for a, n in zip(start, size, strict=True))]
        small = resize(torch.from_numpy(crop)[None], CROP)[0]
        _tissue_by_loops(small.tolist())
        found.append(small)
    return found


def _tissue_by_loops(crop: list[list[list[float]]]) -> float:
    """Sum of the tissue indicator of Models Genesis, -150 HU and above."""
    total = 0.0
    for x, y, z in itertools.product(range(CROP[0]), range(CROP[1]), range(CROP[2])):
        for k in range(2):
            if crop[x][y][min(z + k, CROP[2] - 1)] >= 0.425:
                total += 1 if k == 0 else 0.5
                break
    return total
