"""Only the largest connected piece of each region is kept, where that helped on validation (nnU-Net, Nature Methods 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_med.distributed import gather_objects
from ssl_med.evaluation.scores import dice_per_region
from ssl_med.slabs import slabs

Verdict = dict[str, dict[str, Any]]


def drop_small_pieces(answers: Tensor, regions: Sequence[bool]) -> Tensor:
    """Turns positive voxels outside of the largest piece of a region negative, in place, and returns the answers.

    Pieces are connected by faces, edges and corners. Of two equally large ones the first in memory is kept. Whole scans fill
    the memory: pieces are numbered within the box that holds the region, and looked at slab by slab.

    Args:
        answers: (B, K, *S), positive where a region is the answer.
        regions: K flags, for which regions it is done.
    """
    for sample in answers:
        for region, asked in zip(sample, regions, strict=True):
            if asked:
                _drop(region)
    return answers


def _drop(region: Tensor) -> None:
    """As `drop_small_pieces`, of one region (*S)."""
    from scipy.ndimage import label

    positive = (region > 0).cpu().numpy()
    box = []
    for axis in range(positive.ndim):
        found = np.flatnonzero(positive.any(axis=tuple(other for other in range(positive.ndim) if other != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0))
    pieces, count = label(positive[tuple(box)], structure=np.ones((3,) * positive.ndim))
    if count < 2:
        return
    inside = region[tuple(box)]
    parts = slabs(inside, 0)
    sizes = sum(np.bincount(np.ravel(pieces[part]), minlength=count + 1) for part in parts)
    largest = 1 + int(np.asarray(sizes)[1:].argmax())
    for part in parts:
        small = torch.from_numpy((pieces[part] > 0) & (pieces[part] != largest)).to(region.device)
        inside[part][small] = -inside[part][small]


def judged(found: Iterable[tuple[Sequence[str], Tensor, Tensor]], names: Sequence[str]) -> Verdict:
    """For each region whether its largest piece alone has the higher mean Dice, and both means.

    Args:
        found: names of cases, their answers (B, K, *S), which are changed, and masks (B, K, *S), of validation; of this
            process, at each other too.
        names: of the regions.
    """
    cases: dict[str, list[list[float]]] = {}
    for ids, answers, mask in found:
        for case, answer, truth in zip(ids, answers, mask, strict=True):
            inside = truth if truth.dtype == torch.bool else truth > 0.5
            before = dice_per_region(answer > 0, inside).tolist()
            after = dice_per_region(drop_small_pieces(answer[None], [True] * len(names))[0] > 0, inside).tolist()
            cases[case] = [before, after]
    every = dict(gather_objects(sorted(cases.items())))  # a padded last batch may repeat a case
    whole, largest = np.mean([every[case] for case in sorted(every)], 0)
    return {
        name: {"largest_only": bool(b > a), "dice": float(a), "dice_largest": float(b)}
        for name, a, b in zip(names, whole, largest, strict=True)
    }
