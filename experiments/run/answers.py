"""What trained runs answer to one new scan or image, alone or together, on the grid of its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.core.incoming import Prepared
from ssl_med.evaluation.tasks import Segmentation
from ssl_med.evaluation.transfer import Transfer
from ssl_med.precision import HALF, HALF_FP16
from ssl_med.spec import DataSpec

_TYPES = {HALF: torch.bfloat16, HALF_FP16: torch.float16}


@torch.no_grad()
def answer(module: Transfer, images: Tensor, precision: str) -> Tensor:
    """Answers (B, K, *S) or scores (B, K) of a network in evaluation mode to images (B, C, *S), in float32.

    Answers of masks are log odds, positive where a region is the answer; scores are probabilities.
    """
    kind, device = _TYPES.get(precision), next(module.parameters()).device
    context: Any = torch.autocast(device.type, dtype=kind) if kind is not None else nullcontext()
    with context:
        logits = module.answer(images.to(device))
    logits = logits.float()
    if isinstance(module.task, Segmentation):
        return module.task.answers(logits)
    return logits.softmax(1) if module.spec.target == "class" else logits.sigmoid()


def masks_on_file(found: Sequence[tuple[Tensor, Prepared]]) -> Iterator[tuple[slice, np.ndarray]]:
    """Regions on the grid of the file, a part of its last axis at a time: the part, and (K, *S) bool.

    Args:
        found: of each run, its answers (K, *P) and the scan as it was prepared for that run. Several runs answer by the mean
            of their log odds: each run brings its own to the file's grid first, for they may have prepared it differently.
    """
    _, first = found[0]
    assert first.placement is not None
    regions = len(found[0][0])
    for part in first.placement.slabs(regions):
        total: Tensor | None = None
        for answers, prepared in found:
            assert prepared.placement is not None
            own = prepared.placement.back(answers, part)
            total = own if total is None else total + own
        assert total is not None
        yield part, (total > 0).cpu().numpy()


def labels_of(regions: np.ndarray) -> np.ndarray:
    """Regions (K, *S) bool -> (*S) uint8, number k + 1 of the last region that a voxel is of, else 0."""
    labels = np.zeros(regions.shape[1:], np.uint8)
    for number, region in enumerate(regions, 1):
        labels[region] = number
    return labels


def one_region_each(spec: DataSpec) -> bool:
    """Whether no voxel can be of two regions."""
    return spec.exclusive or len(spec.class_names) == 1
