"""Only the largest connected piece of each region is kept, where that helped on validation (nnU-Net, Nature Methods 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_med.distributed import gather_objects
from ssl_med.evaluation.scores import dice_per_region

Verdict = dict[str, dict[str, Any]]


def without_small_pieces(answers: Tensor, regions: Sequence[bool]) -> Tensor:
    """Answers whose positive voxels outside of the largest piece of a region have turned negative.

    Pieces are connected by faces, edges and corners. Of two equally large ones the first in memory is kept.

    Args:
        answers: (B, K, *S), positive where a region is the answer.
        regions: K flags, for which regions it is done.
    """
    from scipy.ndimage import label

    result = answers.clone()
    for sample in result:
        for region, asked in zip(sample, regions, strict=True):
            pieces, count = (
                label((region > 0).cpu().numpy(), structure=np.ones((3,) * region.ndim)) if asked else ([], 0)
            )
            if count > 1:
                sizes = np.bincount(np.ravel(pieces))[1:]
                small = torch.from_numpy((pieces > 0) & (pieces != 1 + sizes.argmax())).to(region.device)
                region[small] = -region[small]
    return result


def judged(found: Iterable[tuple[Sequence[str], Tensor, Tensor]], names: Sequence[str]) -> Verdict:
    """For each region whether its largest piece alone has the higher mean Dice, and both means.

    Args:
        found: names of cases, their answers (B, K, *S) and masks (B, K, *S), of validation; of this process, at each other too.
        names: of the regions.
    """
    cases: dict[str, list[list[float]]] = {}
    for ids, answers, mask in found:
        alone = without_small_pieces(answers, [True] * len(names))
        for case, before, after, truth in zip(ids, answers, alone, mask > 0.5, strict=True):
            cases[case] = [dice_per_region(x > 0, truth).tolist() for x in (before, after)]
    every = dict(gather_objects(sorted(cases.items())))  # a padded last batch may repeat a case
    whole, largest = np.mean([every[case] for case in sorted(every)], 0)
    return {
        name: {"largest_only": bool(b > a), "dice": float(a), "dice_largest": float(b)}
        for name, a, b in zip(names, whole, largest, strict=True)
    }
