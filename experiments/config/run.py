"""From the overrides of a command line to one frozen, validated config of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from experiments.config.analyses import asked_analysis, check_labels
from experiments.config.effects import facts_of, refuse_without_effect, sections_of
from experiments.config.from_card import with_card
from experiments.config.kinds import FeaturesRun, FinetuneRun, PretrainRun, ProbeRun, RunConfig
from experiments.config.online import PREFIX, check_monitor, compose_online, spelled
from experiments.config.protocols import asked_protocol, probe_class
from experiments.config.sections import (
    SCRATCH,
    BudgetConfig,
    GeneralConfig,
    ImagesConfig,
    LabelsConfig,
    LoadingConfig,
    PretrainStartConfig,
    StartConfig,
    TrackingConfig,
    TrainerConfig,
    TunedConfig,
)
from experiments.config.sources import Gathered, choose, gather, keys_of, method_class_of
from experiments.config.started import is_absent, network_of
from experiments.config.transform_lists import resolved
from ssl_med.config import Layer, read_yaml
from ssl_med.evaluation.protocols.finetune import InitConfig, PretrainInitConfig, TransferConfig
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.networks.backbone import check_backbone
from ssl_med.optim import OptimConfig
from ssl_med.precision import decide
from ssl_med.reports.run_folder import CONFIG
from ssl_med.spec import SslMedError
from ssl_med.values import unquoted

R = TypeVar("R", bound=RunConfig)
SHARED = ("data", "backbone", "trainer", "tracking", "seed", "out", "resume")
STARTED = (*SHARED, "transfer", "init", "family")


def compose_pretrain(overrides: Sequence[str], *, shared: bool = False) -> PretrainRun:
    """`method=pcrl data=luna data.root=DIR ...` -> PretrainRun; `shared`: see `checked`."""
    keys = (*STARTED, "method", "optim")
    chosen, line = choose(
        overrides, required=("method", "data"), optional=("trainer", "backbone"), keys=(*keys, "online")
    )
    monitored = unquoted(line.section("trainer").tree.get("monitor", ""))
    # recipes that keep the last weights have no value to choose by; whoever names one here has
    implied = Layer("", {"trainer": {"select": "best"}}) if monitored.startswith(PREFIX) else None
    said = gather(chosen, line, order=("data", "method", "trainer"), keys=(*keys, "default_data"), implied=implied)
    said = with_card(said, labelled=False)
    method_class = method_class_of(chosen["method"])
    parts = build_parts(
        said,
        labelled=False,
        shared=shared,
        general=PretrainStartConfig,
        transfer=PretrainInitConfig,
        method=method_class.Config,
        optim=OptimConfig,
        trainer=TrainerConfig,
    )
    online = compose_online(line, chosen.get("trainer"))
    config = PretrainRun(name=chosen["method"], method_class=method_class, online=online, **parts)
    if online is not None:
        online.check(config.spec, config.backbone)
    check_monitor(config.trainer.monitor, online)
    return config if shared else checked(config)


def compose_finetune(overrides: Sequence[str], *, shared: bool = False) -> FinetuneRun:
    """`task=lits init=RUN data.root=DIR ...` -> FinetuneRun; `shared`: see `checked`."""
    keys = (*STARTED, "task", "labels", "optim")
    groups = ("data", "recipe", "trainer", "backbone")
    chosen, line = choose(overrides, required=("task",), optional=groups, keys=keys)
    implied = Layer(line.source, {"recipe": chosen["recipe"]}) if "recipe" in chosen else None
    said = gather(chosen, line, order=("data", "task", "recipe", "trainer"), keys=keys, implied=implied)
    said = with_card(said, labelled=True)
    parts = build_parts(
        said,
        labelled=True,
        general=TunedConfig,
        task=TaskConfig,
        labels=BudgetConfig,
        transfer=TransferConfig,
        optim=OptimConfig,
        trainer=TrainerConfig,
    )
    config = FinetuneRun(name=chosen["task"], protocol=parts["transfer"].protocol, **parts)
    check_monitor(config.trainer.monitor, None)
    return config if shared else checked(config)


def compose_probe(overrides: Sequence[str], *, shared: bool = False) -> ProbeRun:
    """`task=luna protocol=linear init=RUN data.root=DIR ...` -> ProbeRun; pretext protocols take data=NAME.

    What yamls say of training (optim, most of trainer) has no meaning here and is left out; on the command line it is refused.
    """
    protocol, rest = _one(overrides, "protocol")
    labelled = asked_protocol(protocol).labels
    group, others = ("task", ("data", "trainer", "backbone")) if labelled else ("data", ("trainer", "backbone"))
    keys = (*STARTED, "probe", *(("task", "labels") if labelled else ()))
    chosen, line = choose(rest, required=(group,), optional=others, keys=keys)
    kept = {"trainer": keys_of(LoadingConfig), "transfer": keys_of(InitConfig), "optim": ()}
    said = gather(chosen, line, order=("data", "task", "trainer"), keys=(*keys, "optim", "task"), kept=kept)
    said = with_card(said, labelled=labelled)
    probe = probe_class(protocol, said.data_class.make_spec(said.data, labelled=labelled), chosen[group])
    parts = build_parts(
        said,
        labelled=labelled,
        general=StartConfig,
        task=TaskConfig,
        labels=LabelsConfig,
        transfer=InitConfig,
        probe=probe.Config,
        trainer=LoadingConfig,
    )
    config = ProbeRun(name=chosen[group], protocol=protocol, **parts)
    return config if shared else checked(config)


def compose_features(overrides: Sequence[str], *, shared: bool = False) -> FeaturesRun:
    """`kind=saliency data=chest14 init=RUN data.root=DIR ...` -> FeaturesRun; task=NAME in place of data=NAME gives labels.

    What yamls say of training has no meaning here, as for a probe.
    """
    name, rest = _one(overrides, "kind")
    analysis = asked_analysis(name)
    labelled = any(override.startswith("task=") for override in rest)
    group, others = ("task", ("data", "trainer", "backbone")) if labelled else ("data", ("trainer", "backbone"))
    keys = (*STARTED, "features", "images", *(("task",) if labelled else ()))
    chosen, line = choose(rest, required=(group,), optional=others, keys=keys)
    # presets choose a fast arithmetic for training; here differences of features count
    loading = tuple(key for key in keys_of(LoadingConfig) if key != "precision")
    kept = {"trainer": loading, "transfer": keys_of(InitConfig), "optim": (), "labels": ()}
    said = gather(chosen, line, order=("data", "task", "trainer"), keys=(*keys, "optim", "task", "labels"), kept=kept)
    said = with_card(said, labelled=labelled)
    check_labels(analysis, said.data_class.make_spec(said.data, labelled=labelled), chosen[group])
    parts = build_parts(
        said,
        labelled=labelled,
        general=StartConfig,
        task=TaskConfig,
        transfer=InitConfig,
        features=analysis.Config,
        images=ImagesConfig,
        trainer=LoadingConfig,
    )
    config = FeaturesRun(name=chosen[group], analysis=name, with_task=labelled, **parts)
    return config if shared else checked(config)


def _one(overrides: Sequence[str], key: str) -> tuple[str, list[str]]:
    """The value of `key=...` among overrides, "" without it, and the others.

    Raises:
        SslMedError: it is given twice.
    """
    asked = [override for override in overrides if override.startswith(f"{key}=")]
    if len(asked) > 1:
        raise SslMedError(f"command line: '{key}' is given twice")
    return asked[0].partition("=")[2] if asked else "", [override for override in overrides if override not in asked]


def checked(config: R) -> R:
    """The config, whose command line sets nothing without an effect.

    A table shares its settings among runs of many kinds, and not each concerns all of them: there nothing is refused.
    """
    if config.tracking.table:
        return config
    sections, facts = sections_of(config), facts_of(config.kind, config.spec)
    online = getattr(config, "online", None)
    if online is not None:
        sections["online"] = online.settings
        facts["validation"] = True  # a monitored probe needs none
        with spelled():
            labelled = facts_of("probe", online.spec)  # its data are read as those of a probe
            refuse_without_effect({"data": online.data}, config.given.section("online"), labelled)
    refuse_without_effect(sections, config.given, facts)
    return config


def build_parts(
    said: Gathered, *, labelled: bool, general: type[GeneralConfig], shared: bool = False, **schemas: type
) -> dict[str, Any]:
    """The parts of a run, as arguments of its dataclass: the sections of `schemas` and those that every run has.

    `shared`: of a table, which is planned before all weights are there.
    """
    parts = said.settings.build_sections(backbone=said.network.Config, tracking=TrackingConfig, **schemas)
    top = said.settings.top(keys_of(general)).build(general, prefix="")
    spec = said.data_class.make_spec(said.data, labelled=labelled)
    if isinstance(top, PretrainStartConfig) and top.init != SCRATCH and not (shared and is_absent(top)):
        parts["backbone"] = network_of(top, parts["backbone"], spec, said.settings)
    check_backbone(parts["backbone"], spec)
    lists = resolved(said, parts, spec, augments=schemas.get("transfer") is TransferConfig)
    trainer = parts["trainer"]
    precision = decide(trainer.precision, accelerator=trainer.accelerator, begun=_begun(top.out))
    return {
        **parts,
        **lists,
        "general": top,
        "trainer": replace(trainer, precision=precision.value),
        "precision": precision,
        "data_class": said.data_class,
        "data": said.data,
        "other_backbones": said.other_networks,
        "given": said.settings,
    }


def _begun(out: str) -> str:
    """Arithmetic of the run that the folder `out` holds already, perhaps begun on another kind of machine; '' without one."""
    path = Path(out) / CONFIG
    if not out or not path.is_file():
        return ""
    return str(read_yaml(path, str(path)).section("trainer").tree.get("precision", ""))
