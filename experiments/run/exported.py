"""A finished fine-tuning as what leaves for other programs: its network, and a card that says where it comes from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from experiments.config.finetuned import FinetunedRun
from experiments.run.environment import git_revision, versions
from ssl_med.checkpoint import Card
from ssl_med.config import Layer, Settings, to_plain
from ssl_med.evaluation.tasks import Segmentation, TaskConfig
from ssl_med.ledger import Leakage, Ledger, Members
from ssl_med.reports.run_folder import Run, read_run
from ssl_med.weights.core.exporter import Regions, Source
from ssl_med.weights.core.origin import ORIGIN, elsewhere


def is_finetuned(path: Path) -> bool:
    """Whether a path is the folder of a fine-tuning, which has no backbone file."""
    return path.is_dir() and not (path / "backbone.safetensors").exists() and read_run(path).kind == "finetune"


def finetuned_source(path: Path) -> Source:
    """A finished fine-tuning: the tested weights, with decoder and head where it segments.

    Its card names the subjects and files of the fine-tuning and of the pretraining before it, whether that pretraining saw
    the test, and the licence of weights from elsewhere; paths stay here.

    Raises:
        SslMedError: it has no result, its weights are gone, or what it recorded is damaged.
    """
    trained = FinetunedRun.read(path)
    config = Settings.merged([Layer(str(path), trained.settings)]).section("task").build(TaskConfig, prefix="task")
    module = trained.module(config).eval()
    summary, regions = trained.run.summary, None
    if isinstance(task := module.task, Segmentation):
        regions = Regions(task.head, trained.spec.class_names, task.softmax, task.largest, config.overlap)
    own, before = trained.ledgers()
    card = Card(
        method=f"finetune {summary.get('task', '')}".strip(),
        method_config=_about(trained.run, own, before),
        backbone=to_plain(trained.network()),
        spec=trained.spec.to_dict(),
        skips=module.decoder.skips if module.decoder is not None else None,
        steps=int(summary.get("steps", 0)),
        seed=int(summary.get("seed", 0)),
        versions=dict(summary.get("versions") or versions()),
        git=str(summary.get("git") or git_revision()),
        **took_part(own, before).card_fields(),
    )
    return Source(path, module.backbone, module.decoder, card, regions)


def took_part(own: Ledger, before: Ledger | None) -> Ledger:
    """Who was trained on or chose the weights, in the fine-tuning or in the pretraining; its test part was not.

    A pretraining that was recorded under another salt cannot be joined: its keys are others for the same subjects.
    """
    mine = Ledger({name: own.parts.get(name, Members()) for name in ("train", "val")}, own.salt)
    return mine.joined(before) if before is not None and before.salt == own.salt else mine


def _about(run: Run, own: Ledger, before: Ledger | None) -> dict[str, Any]:
    """What a reader of the weights should know: task, start, leak, and the origin of weights from elsewhere."""
    held = elsewhere(run.card.get("method_config") or {}, run.card.get("starts") or ())
    origin = {key: held[key] for key in ORIGIN if key in held}
    leak = {one.name: run.leakage[one.name] for one in fields(Leakage) if one.name in run.leakage}
    notes = [str(Leakage(**leak))] if "status" in leak else []
    if before is not None and before.salt != own.salt:
        notes.append("subjects of the pretraining were recorded under another SSL_MED_SALT and are not in this card")
    start = str(run.card.get("method") or "random weights")
    return {"finetuned_on": str(run.summary.get("task", "")), "start": start, "leakage": notes, **origin}
