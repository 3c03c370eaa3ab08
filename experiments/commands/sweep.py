"""`ssl-med sweep`: write a W&B sweep file for one method, from its recipe and the numbers of its `Config`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from experiments.config.effects import facts_of, sections_of, why_without
from experiments.config.kinds import PretrainRun
from experiments.config.run import compose_pretrain
from ssl_med.config import Layer, build, parse_overrides, to_plain, to_yaml
from ssl_med.evaluation.metrics import metric_of
from ssl_med.files import write_text
from ssl_med.ranges import check_ranges
from ssl_med.spec import SslMedError

USAGE = "ssl-med sweep method=NAME data=NAME [data.root=DIR] [out=FILE] [metric=NAME goal=maximize] [key=value ...]"
EXAMPLES = (
    "ssl-med sweep method=pcrl data=luna data.root=DIR out=sweep.yaml",
    "ssl-med sweep method=moco data=chest14 data.root=DIR search=bayes optim.lr=0.01",
)
NAMES = ("method", "data", "trainer", "backbone")
REQUIRED = ("method", "data")
SETTINGS = {
    "": "experiments.commands.sweep:SweepConfig + experiments.config.sections:GeneralConfig seed resume",
    "method": "ssl_med.methods.{method}:Config",
    "data": "datamodules.{data}:Config",
    "backbone": "ssl_med.networks.backbones.{backbone}:Config",
    "optim": "ssl_med.optim:OptimConfig",
    "trainer": "experiments.config.sections:TrainerConfig",
    "tracking": "experiments.config.sections:TrackingConfig",
    "online": "experiments.config.online:OnlineConfig",
    "online.data": "datamodules.{online}:Config",
}

WIDTHS = (
    "_dim",
    "_seed",
    "bottleneck",
    "layers",
)  # endings of keys that name an architecture or a set, not a trade-off
NEAR_ONE = 0.9  # averaging rates and probabilities above vary by their distance to 1
ABOUT = """\
# W&B sweep of {name} on {data}: `wandb sweep FILE`, then `wandb agent ...` on each machine. An agent works online.
# Ranges lie around the recipe, which is in the middle of each. {metric} says how well the pretext is solved, not how
# well it transfers; a setting that makes the pretext easier wins. Where a probe is logged while it trains, name that:
# metric=NAME goal=maximize. An override such as {example} takes that key out of the search.
"""


@dataclass
class SweepConfig:
    """What `ssl-med sweep` writes besides the run."""

    out: str = ""
    """file to write; empty: print it"""
    metric: str = ""
    """logged value that is optimised; empty: the method's validation metric"""
    goal: Literal["auto", "maximize", "minimize"] = "auto"
    """auto: the direction of the metric"""
    search: Literal["random", "bayes"] = "random"
    """how the next values are chosen"""


def sweep(overrides: Sequence[str]) -> str:
    """Prints or writes the sweep file of `method=NAME data=NAME ...`; returns its text.

    Raises:
        SslMedError: an override is wrong, or nothing is left to vary.
    """
    keys = tuple(SweepConfig.__dataclass_fields__)
    own = parse_overrides(override for override in overrides if override.partition("=")[0] in keys)
    rest = [override for override in overrides if override.partition("=")[0] not in keys]
    settings = build(SweepConfig, [Layer(own.source, own.tree)], prefix="")
    config = compose_pretrain(rest)
    tree = specification(config, rest, settings)
    first = next(iter(tree["parameters"]))
    about = ABOUT.format(
        name=config.name,
        data=config.data.name,
        metric=tree["metric"]["name"],
        example=f"{first}={_default(config, first):g}",
    )
    text = about + to_yaml(tree)
    if settings.out:
        path = Path(settings.out)
        write_text(path, text)
        print(f"sweep of {config.name}, {len(tree['parameters'])} parameters -> {path}")
    else:
        print(text, end="")
    return text


def specification(config: PretrainRun, overrides: Sequence[str], settings: SweepConfig) -> dict[str, Any]:
    """The sweep as W&B reads it; each trial is `ssl-med pretrain` with the trial's overrides behind `overrides`."""
    name = settings.metric or f"val/{config.method_class.metric.name}"
    goal = settings.goal if settings.goal != "auto" else direction(name)
    given = {override.partition("=")[0] for override in overrides}
    tracking = [] if "tracking.wandb" in given else ["tracking.wandb=online"]
    return {
        "name": f"{config.name} on {config.data.name}",
        "project": config.tracking.project,
        "program": "ssl-med",
        "method": settings.search,
        "metric": {"name": name, "goal": goal},
        "parameters": parameters(config, given),
        "command": ["ssl-med", "pretrain", *overrides, *tracking, "${args_no_hyphens}"],
    }


def direction(metric: str) -> str:
    """The goal of a logged value.

    Raises:
        SslMedError: it is not known to be better when higher or lower.
    """
    try:
        return metric_of(metric).goal
    except SslMedError as error:
        raise SslMedError(f"metric={error}; give goal=maximize or goal=minimize") from None


def parameters(config: PretrainRun, given: set[str]) -> dict[str, dict[str, Any]]:
    """Range of each key that is searched: learning rate, weight decay, batch size and the numbers of the method.

    Args:
        config: whose values the ranges lie around.
        given: keys that keep their value.

    Raises:
        SslMedError: all keys are given.
    """
    optim, batch = config.optim, config.trainer.batch_size
    low = max(optim.lr / 10, optim.final_lr)
    found: dict[str, dict[str, Any]] = {
        "optim.lr": _log_uniform(low, optim.lr * 10),
        "optim.weight_decay": _log_uniform(optim.weight_decay / 10, optim.weight_decay * 10)
        if optim.weight_decay
        else {"values": [0.0, 1e-6, 1e-5, 1e-4]},
        "trainer.batch_size": {"values": sorted({max(2, batch // 2), batch, 2 * batch})},
    }
    sections, facts = sections_of(config), facts_of(config.kind, config.spec)
    for key, value in to_plain(config.method).items():
        idle = why_without("method", config.method, key, sections, facts)
        around = None if key.endswith(WIDTHS) or idle else _around(value)
        if around is not None:
            found[f"method.{key}"] = _within(config.method, key, around)
    found = {key: value for key, value in found.items() if key not in given}
    if not found:
        raise SslMedError("sweep: every key is given on the command line; leave one out to have it searched")
    return found


def _around(value: Any) -> dict[str, Any] | None:
    """Range around a default; None for what is no number, is off, or is a count too small to vary."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        return None
    if isinstance(value, int):
        return {"values": sorted({value // 2, value, 2 * value})} if value > 1 else None
    if NEAR_ONE <= value < 1:
        steps = (1 - (1 - value) * factor for factor in (4, 2, 1, 0.5, 0.25))
        return {"values": [round(step, 6) for step in steps if step > 0]}
    if 0.01 <= value < 1:
        return {"distribution": "uniform", "min": value / 2, "max": min(2 * value, 1.0)}
    return _log_uniform(value / 3, value * 3)


def _within(method: Any, key: str, around: dict[str, Any]) -> dict[str, Any]:
    """The range without what the method refuses; a refused end moves half of the way to the default, or all of it."""

    def taken(value: Any) -> bool:
        try:
            check_ranges(replace(method, **{key: value}), "method")
        except SslMedError:
            return False
        return True

    if "values" in around:
        return {"values": [value for value in around["values"] if taken(value)]}
    default = getattr(method, key)
    ends = {
        end: next(x for x in (around[end], (around[end] + default) / 2, default) if taken(x)) for end in ("min", "max")
    }
    return {**around, **ends}


def _log_uniform(low: float, high: float) -> dict[str, Any]:
    return {"distribution": "log_uniform_values", "min": low, "max": high}


def _default(config: PretrainRun, key: str) -> float:
    section, _, name = key.partition(".")
    return float(getattr(getattr(config, section), name))


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    sweep(arguments)
