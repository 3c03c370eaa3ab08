"""`ssl-med dashboard`: write the W&B workspace of this suite as code, or with --save send it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from experiments.config.sections import TrackingConfig, environment_mode
from experiments.run.tracking import LABEL_FRACTION, PICTURES
from ssl_med.config import Layer, build, parse_overrides
from ssl_med.reports.writing import write_json
from ssl_med.spec import SslMedError

USAGE = "ssl-med dashboard [project=NAME] [table=NAME] [out=FILE] [--save entity=NAME tracking.wandb=online]"
EXAMPLES = (
    "ssl-med dashboard table=hippocampus out=runs/dashboard.json",
    "ssl-med dashboard --save entity=TEAM tracking.wandb=online",
)
SETTINGS = {
    "": "experiments.commands.dashboard:DashboardConfig",
    "tracking": "experiments.config.sections:TrackingConfig",
}
OPTIONS = {"--save": "send the workspace to W&B"}

STEP = "trainer/global_step"  # Lightning's logger writes it beside every value
METHOD = "facets.method"
COLUMNS = ("table", "method", "data", "task", "protocol", "fraction", "seed")  # facets of the run table
REMEDY = "pip install 'ssl-med[dashboard]'"


@dataclass(frozen=True)
class Panel:
    """One picture of a workspace.

    * steps: `keys` over optimiser steps. * pattern: the same of all keys that one regular expression finds.
    * methods: bars, the mean of each method. * labels: mean and standard error of each method over the share of labels.
    * media: pictures.
    """

    title: str
    keys: tuple[str, ...]
    kind: Literal["steps", "pattern", "methods", "labels", "media"] = "steps"
    log: bool = False


def _pretext(metric: str) -> Panel:
    return Panel(f"Pretext {metric}", (f"train/{metric}", f"val/{metric}", f"train/{metric}_baseline"))


def _sign(sign: str) -> Panel:
    return Panel(f"Collapse: {sign.replace('_', ' ')}", (f"collapse/{sign}",))


# `*_baseline`, what a solution without learning scores, is drawn beside each pretext metric
SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Loss": (
        Panel("Training loss", ("train/loss",)),
        Panel("Validation loss", ("val/loss",)),
        Panel("Validation score of the task", ("val/dice", "val/auc", "val/auroc")),
        Panel("Test score along the training", ("curve/dice", "curve/auc", "curve/auroc")),
    ),
    "Pretext": tuple(_pretext(metric) for metric in ("mse", "accuracy", "retrieval")),
    "Probes while pretraining": (Panel("Online probes", ("^online/",), "pattern"),),
    "Collapse": tuple(_sign(sign) for sign in ("feature_std", "effective_rank", "alignment", "uniformity")),
    "Label efficiency": tuple(
        Panel(f"Test {metric} over the share of labels", (f"test/{metric}",), "labels")
        for metric in ("dice", "auc", "auroc")
    ),
    "Test": (
        Panel("Dice", ("test/dice",), "methods"),
        Panel("Hausdorff distance, 95th percentile, mm", ("test/hd95_mm",), "methods"),
        Panel("AUC", ("test/auc",), "methods"),
        Panel("Mean AUROC of findings", ("test/auroc",), "methods"),
    ),
    "Throughput": (
        Panel("Samples per second", ("speed/samples_per_second",)),
        Panel("Samples per second by method", ("speed/samples_per_second",), "methods"),
    ),
    "Predictions": (Panel("Test cases: truth and prediction", (PICTURES,), "media"),),
}


@dataclass
class DashboardConfig:
    """What `ssl-med dashboard` writes."""

    project: str = field(default_factory=lambda: TrackingConfig().project)
    """W&B project"""
    entity: str = ""
    """W&B team or user; needed by --save"""
    table: str = ""
    """only the runs of this comparison; empty: all"""
    out: str = "runs/dashboard.json"
    """file to write"""


def dashboard(overrides: Sequence[str]) -> Path:
    """Writes the specification; saves it to the W&B server where --save and tracking.wandb=online ask for it.

    Raises:
        SslMedError: an override is wrong, the package is missing, or the server refuses.
    """
    save = "--save" in overrides
    line = parse_overrides(override for override in overrides if override != "--save")
    top = Layer(line.source, {key: value for key, value in line.tree.items() if key != "tracking"})
    config = build(DashboardConfig, [top], prefix="")
    tracking = build(TrackingConfig, [line.section("tracking")], prefix="tracking")
    if save and tracking.wandb != "online":
        raise SslMedError("dashboard: --save sends to W&B, and nothing is sent without tracking.wandb=online; add it")
    if save and not config.entity:
        raise SslMedError("dashboard: --save needs entity=NAME, the W&B team or user that owns the project")
    if save and environment_mode() in ("off", "offline"):
        raise SslMedError(f"WANDB_MODE={os.environ.get('WANDB_MODE', 'disabled')}: sends nothing; unset it to --save")
    view = workspace(config)
    path = Path(config.out)
    write_json(path, specification(view))
    print(f"dashboard of {config.project} -> {path}")
    if save:
        print(f"saved: {_save(view)}")
    return path


def workspace(config: DashboardConfig) -> Any:
    """The workspace as an object of wandb-workspaces; ids depend on names alone, so that equal overrides give equal files.

    Raises:
        SslMedError: wandb-workspaces is not installed.
    """
    ws, wr = _library()
    sections = []
    for name, panels in SECTIONS.items():
        built = [_panel(wr, panel) for panel in panels]
        for panel, made in zip(panels, built, strict=True):
            made._id = hashlib.sha256(f"{name}/{panel.title}".encode()).hexdigest()[:12]
        sections.append(ws.Section(name=name, panels=built, is_open=True))
    return ws.Workspace(
        entity=config.entity,
        project=config.project,
        name=f"ssl_med: {config.table}" if config.table else "ssl_med",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Tags().isin([f"table:{config.table}"])] if config.table else [],
            groupby=[ws.Metric("Group")],
            pinned_columns=[f"config:facets.value.{facet}" for facet in COLUMNS],
        ),
    )


def specification(view: Any) -> dict[str, Any]:
    """What is sent, as plain JSON."""
    model = view._to_model()
    spec: dict[str, Any] = model.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {"name": view.name, "project": view.project, "entity": view.entity, "spec": spec}


def _panel(wr: Any, panel: Panel) -> Any:
    if panel.kind == "media":
        return wr.MediaBrowser(title=panel.title, media_keys=list(panel.keys), num_columns=4)
    if panel.kind == "methods":
        return wr.BarPlot(
            title=panel.title,
            metrics=list(panel.keys),
            groupby=wr.Config(METHOD),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
        )
    if panel.kind == "labels":
        return wr.LinePlot(
            title=panel.title,
            x=LABEL_FRACTION,
            y=list(panel.keys),
            groupby=wr.Config(METHOD),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            aggregate=True,
            title_x="share of the labelled training patients",
        )
    what = {"metric_regex": panel.keys[0]} if panel.kind == "pattern" else {"y": list(panel.keys)}
    return wr.LinePlot(title=panel.title, x=STEP, title_x="optimiser step", **what)


def _save(view: Any) -> str:
    """Sends a new saved view; returns its address.

    Raises:
        SslMedError: no account, no such project, no connection.
    """
    import wandb

    try:
        view.save()
    except (wandb.errors.Error, OSError, ValueError) as error:
        reason = shorten(str(error), 200, placeholder=" ...")
        raise SslMedError(
            f"dashboard: W&B did not take it ({reason}); log in by `wandb login`, check project={view.project} and "
            f"entity={view.entity}"
        ) from None
    return str(view.url)


def _library() -> tuple[Any, Any]:
    """wandb_workspaces.workspaces and .reports.v2.

    Raises:
        SslMedError: not installed.
    """
    try:
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports import v2
    except ImportError:
        raise SslMedError(f"dashboard: wandb-workspaces is not installed; {REMEDY}") from None
    return workspaces, v2


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    dashboard(arguments)
