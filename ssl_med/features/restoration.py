"""What a restoration method makes of held-out images: original, corrupted, restored, and what differs.

Papers: Zhou et al., "Models Genesis", Medical Image Analysis 67, 2021, Figs. 8 and 9 (restorations, and diseases as what is not
restored); Chen et al., "Self-supervised learning for medical image analysis using image context restoration", Medical Image
Analysis 58, 2019.

The whole network of the pretraining restores images that it has not seen, corrupted as in training by numbers that the seed
draws. MSE, PSNR (dB) and SSIM of `evaluation/restored.py` stand beside those of the corrupted input, which is what a network
gives that learned nothing. The image as it is goes through the network too: what it does not give back is what healthy images
do not have, or what it cannot draw, `difference` (mean absolute).

Where we deviate: Models Genesis shows images of diseases alone; here the part of the data says which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_med.evaluation.restored import NAMES, scores
from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.drawing import Tile, planes, tiles
from ssl_med.features.core.images import Images
from ssl_med.finite import check_rows
from ssl_med.ranges import Natural
from ssl_med.rng import seeded_generator
from ssl_med.spec import SslMedError

_DRAW = 0x4E57  # word of the generator of corruptions
_STAGES = ("corrupted", "restored", "unchanged")


@dataclass
class RestorationConfig:
    """What is shown."""

    pictures: Natural = 4
    """images that are shown, evenly spaced among all; of volumes three planes of each"""


class Restoration(Analysis):
    """Restorations of held-out images by the network of a pretraining."""

    Config = RestorationConfig
    config: RestorationConfig
    paper = "Zhou et al. 2021; Chen et al. 2019"
    restores = True

    def measure(self, images: Images) -> Findings:
        """Numbers `mse`, `psnr`, `ssim`, each also `corrupted/...`, and `difference`; a row for each image."""
        restore = images.restore
        if restore is None:
            raise SslMedError(
                "kind=restoration needs the whole network of a pretraining; give init=RUN, the folder of one by a method that "
                "restores images, such as models_genesis or mae"
            )
        shown = set(np.linspace(0, images.count - 1, self.config.pictures).round().astype(int).tolist())
        rows: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        unit = not images.spec.intensity.standardised
        for number, batch in enumerate(images.batches("restorations")):
            generator = seeded_generator(images.seed, _DRAW, number, device=images.device)
            with torch.inference_mode():
                found = {name: x.float() for name, x in restore(batch["image"], generator).items()}
            check_rows(batch["id"], found["restored"], "restorations")
            for place, case in enumerate(batch["id"]):
                original = batch["image"][place]
                mine = {name: found[name][place] for name in _STAGES if name in found}
                if len(rows) in shown:
                    stages: dict[str, Tensor] = {"original": original, **mine}
                    arrays |= {f"{name}{len(rows)}": x.cpu().numpy() for name, x in stages.items()}
                row = {"case": case, **scores(mine["restored"], original, unit=unit)}
                row |= {f"corrupted/{key}": v for key, v in scores(mine["corrupted"], original, unit=unit).items()}
                if "unchanged" in mine:
                    row["difference"] = float((mine["unchanged"] - original).abs().mean())
                rows.append(row)
        numbers: dict[str, float] = {"images": float(len(rows))}
        keys = [*NAMES, *(f"corrupted/{name}" for name in NAMES), *(["difference"] if "difference" in rows[0] else [])]
        notes = []
        for key in keys:
            values = np.array([row[key] for row in rows])
            known = values[np.isfinite(values)]
            numbers[key] = float(known.mean()) if len(known) else math.nan
            if len(known) < len(values):
                notes.append(
                    f"{key} is infinite for {len(values) - len(known)} images, where nothing differs; they do not count"
                )
        return Findings(numbers, "psnr", rows, arrays, notes)

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """Of each network original, corrupted, restored and what differs; and what it does not give back of the image."""
        drawings = []
        for number, (name, one) in enumerate(found.items()):
            for key, title, stages, caption in (
                ("restored", "restorations", ("original", "corrupted", "restored"), _RESTORED),
                ("unchanged", "input less its restoration", ("original", "unchanged"), _UNCHANGED),
            ):
                rows, names = _grid(one, stages)
                if rows:
                    heads = [_HEADS.get(stage, stage) for stage in stages] + ["difference"]
                    figure = tiles(rows, names=names, heads=heads)
                    stem = _STEMS[key] if len(found) == 1 else f"{_STEMS[key]}_{number}"
                    drawings.append(Drawing(stem, f"{title} of {name}", figure, caption))
        return drawings


_STEMS = {"restored": "restoration", "unchanged": "not_restored"}
_HEADS = {"unchanged": "restored from it"}
_RESTORED = "Restored is what the network makes of corrupted; bright in the last column: it differs from the original."
_UNCHANGED = (
    "The network is shown the image as it is. Bright: what it does not give back, such as a disease that it never saw."
)


def _grid(found: Findings, stages: Sequence[str]) -> tuple[list[list[Tile]], list[str]]:
    """A row for each plane of each image that is shown: stages on one grey scale, and how the last differs from the first."""
    rows, names = [], []
    for number, row in enumerate(found.rows):
        if f"{stages[-1]}{number}" not in found.arrays:
            continue
        arrays = [found.arrays[f"{stage}{number}"] for stage in stages]
        low, high = float(arrays[0].min()), float(arrays[0].max())
        gap = np.abs(arrays[-1] - arrays[0]).mean(0, keepdims=True)
        most = max(float(np.quantile(gap, 0.999)), 0.05 * (high - low))  # what can hardly be seen stays dark
        text = f"PSNR {float(row['psnr']):.1f} dB, SSIM {float(row['ssim']):.2f}" if stages[-1] == "restored" else ""
        for plane in planes(arrays[0]):
            line = [Tile(planes(one)[plane], low=low, high=high) for one in arrays]
            rows.append([*line, Tile(planes(gap)[plane], low=0, high=most)])
            names.append("\n".join(filter(None, [str(row["case"]), plane])))
        rows[-1][-2] = replace(rows[-1][-2], text=text)
    return rows, names
