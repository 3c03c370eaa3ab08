"""What a pretraining by restoration restores at its end: numbers and figures of its report, from validation images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datamodules.core.base import MedicalData
from experiments.config.kinds import PretrainRun
from experiments.run.feature_analysis import draw
from experiments.run.session import Session
from ssl_med.evaluation.features import kept_mode
from ssl_med.features.core.images import Images
from ssl_med.features.restoration import Restoration, RestorationConfig
from ssl_med.methods.core.base import Method
from ssl_med.methods.core.restoring import restoring
from ssl_med.spec import Batch

SAMPLES = 64  # images from which numbers are taken
_CASES = 16


def show_restorations(session: Session[PretrainRun], method: Method, data: MedicalData) -> dict[str, Any]:
    """Draws restorations into the run folder; what summary.json says of them, nothing of a method that restores nothing.

    Images are the first of evenly spaced cases of the validation part, or without one of the training part, which is said.
    """
    restorer = restoring(method)
    if restorer is None:
        return {}
    part = "val" if data.parts["val"] else "train"
    cases = list(data.parts[part])
    cases = cases[:: -(-len(cases) // _CASES)]
    loader: Any = data.still_loader(cases, part=part)
    count = min(len(loader.dataset), SAMPLES)

    def load() -> Iterator[Batch]:
        left = count
        for batch in loader:
            size = min(left, len(batch["image"]))
            yield Batch(image=batch["image"][:size], id=batch["id"][:size])
            left -= size
            if not left:
                return

    device = next(method.parameters()).device
    analysis = Restoration(RestorationConfig(pictures=4 if session.config.spec.spatial_dims == 2 else 2))
    with kept_mode(method):
        method.eval()
        images = Images(method.backbone, session.config.spec, load, count, range(count), device=device,
                        seed=session.config.general.seed, restore=restorer.restored)  # fmt: skip
        found = analysis.measure(images)
    drawings = draw(session.folder, analysis, {session.method: found})
    session.track_pictures([{**item, "case": item["title"], "why": "restoration"} for item in drawings])
    return {"drawings": drawings, "restoration": {**found.numbers, "part": part, "images": count}}


def restoration_line(summary: dict[str, Any]) -> str:
    """One line on what `show_restorations` found; '' for nothing."""
    found = summary.get("restoration")
    if not found:
        return ""
    gain = f"PSNR {found['psnr']:.2f} dB (corrupted {found['corrupted/psnr']:.2f}), SSIM {found['ssim']:.3f}"
    return f"restored {found['images']} images of {found['part']}: {gain} (corrupted {found['corrupted/ssim']:.3f})"
