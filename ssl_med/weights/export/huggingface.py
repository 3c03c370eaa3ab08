"""A folder for Hugging Face: config.json, model.safetensors, and a README that says data, method, licence and contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssl_med.checkpoint import save_backbone
from ssl_med.files import write_text
from ssl_med.reading import UnreadableError, read_json
from ssl_med.weights.core.exporter import Exporter, Source
from ssl_med.weights.core.facts import data_lines, licence_line, method_lines
from ssl_med.weights.core.origin import elsewhere


class HuggingFace(Exporter):
    """Any encoder, with its decoder where the file has one."""

    ending = ""

    def check(self, source: Source) -> None:
        """Everything is taken."""

    def write(self, source: Source, out: Path) -> list[str]:
        """Tensors are a backbone file of ours, whose names are those of `ssl_med.hub.Pretrained`."""
        out.mkdir(parents=True, exist_ok=True)
        save_backbone(out / "model.safetensors", backbone=source.backbone, decoder=source.decoder, card=source.card)
        write_text(out / "config.json", json.dumps(configuration(source), indent=2, sort_keys=True) + "\n")
        write_text(out / "README.md", readme(source))
        return [
            "config.json, model.safetensors and README.md: read the README before you publish it",
            *([_headless(source)] if "finetuned_on" in source.card.method_config else []),
            f"read it with ssl_med.hub.hub_model().from_pretrained('{out.name}', strict=True), or init={out}",
            *source.contract.lines(),
        ]


def configuration(source: Source) -> dict[str, Any]:
    """Arguments of `ssl_med.hub.Pretrained`."""
    card = source.card
    return {
        "library_name": "ssl_med",
        "backbone": card.backbone,
        "spatial_dims": source.backbone.spatial_dims,
        "in_channels": source.backbone.in_channels,
        "skips": card.skips if source.decoder is not None else None,
        "contract": source.contract.to_dict(),
        "method": card.method,
        "steps": card.steps,
        "seed": card.seed,
        "git": card.git,
        "versions": card.versions,
    }


def readme(source: Source) -> str:
    """Markdown with the front matter that the hub reads."""
    card, about = source.card, source.card.method_config
    origin = elsewhere(about, card.starts)
    front: dict[str, Any] = {
        "library_name": "ssl_med",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["medical-imaging", "self-supervised-learning", card.method],
    }
    if origin:
        front |= {"license": "other", "license_name": str(origin["licence"])}
    parts = [
        # JSON is YAML, so that no name can break the front matter
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()),
        "---",
        f"# {card.method}: {card.backbone['name']}, {source.backbone.spatial_dims}D",
        "",
        "## Method",
        *method_lines(card),
        *([_headless(source)] if "finetuned_on" in about else []),
        "",
        "## Data",
        *data_lines(card),
        "",
        "## Licence",
        licence_line(card),
        "",
        "## Metrics",
        *_metrics(source.path),
        "",
        "## Images must be",
        *(f"- {line}" for line in source.contract.lines()),
        "",
        "## Use",
        "```python",
        "from ssl_med.hub import hub_model  # pip install 'ssl-med[hub]'",
        "",
        'model = hub_model().from_pretrained("OWNER/NAME", strict=True)',
        "levels = model(images)  # finest first",
        "```",
    ]
    return "\n".join(parts) + "\n"


def _headless(source: Source) -> str:
    """That the head of a fine-tuning stays behind."""
    if source.regions is None:
        return "This folder holds the encoder; the head that answered the task is not part of it."
    names = ", ".join(source.regions.names)
    return f"This folder holds encoder and decoder; the head that answered {names} is not part of it."


def _metrics(path: Path) -> list[str]:
    """Rows of the run's last metrics; a line where there are none."""
    summary: Any = {}
    if path.is_dir() and (path / "summary.json").is_file():
        try:
            summary = read_json(path / "summary.json")
        except UnreadableError:
            summary = {}
    metrics = summary.get("metrics") if isinstance(summary, dict) else None
    numbers = {key: value for key, value in (metrics or {}).items() if isinstance(value, int | float)}
    if not numbers:
        return ["None: they stand in the run's folder, which was not exported."]
    return ["| metric | value |", "|---|---|", *(f"| {key} | {value:.4g} |" for key, value in numbers.items())]
