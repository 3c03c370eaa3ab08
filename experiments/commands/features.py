"""`ssl-med features`: look at what frozen encoders have learned, one or several side by side, in numbers and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.config.kinds import FeaturesRun
from experiments.config.run import compose_features
from experiments.config.sections import SCRATCH
from experiments.config.showing import is_shown, show
from experiments.run.environment import say
from experiments.run.feature_analysis import analyse, side_by_side
from ssl_med.config import config_hash
from ssl_med.reports.escape import file_stem
from ssl_med.reports.page import report_runs

USAGE = "ssl-med features kind=NAME data=NAME|task=NAME [init=RUN|FILE|scratch ...] [data.root=DIR] [key=value ...]"
EXAMPLES = (
    "ssl-med features kind=spectrum data=chest14 init=RUN init=scratch data.root=DIR",
    "ssl-med features kind=spectrum data=luna init=RUN data.root=DIR images.part=val images.cases=0",
)
NAMES = ("kind", "task", "data", "trainer", "backbone")
REQUIRED = ("kind",)
SETTINGS = {
    "": "experiments.config.sections:StartConfig",
    "features": "{kind}",
    "images": "experiments.config.sections:ImagesConfig",
    "task": "ssl_med.evaluation.tasks:TaskConfig",
    "data": "datamodules.{data}:Config",
    "transfer": "ssl_med.evaluation.protocols.finetune:InitConfig",
    "backbone": "ssl_med.networks.backbones.{backbone}:Config",
    "trainer": "experiments.config.sections:LoadingConfig",
    "tracking": "experiments.config.sections:TrackingConfig",
}
OPTIONS = {"--show": "print all settings and stop; --show=sources: and the file or override that set each"}
JOINT = "side_by_side"  # what relates the networks, beside their own runs
DEFAULTS = ("root", "phantoms", "trainer")


def features(overrides: Sequence[str]) -> Path:
    """Carries out an analysis for each `init`; returns the run folder, or the folder of the comparison of several."""
    inits = list(dict.fromkeys(word.partition("=")[2] for word in overrides if word.startswith("init="))) or [SCRATCH]
    rest = [word for word in overrides if not word.startswith("init=")]
    if len(inits) == 1:
        return analyse(compose_features([*rest, f"init={inits[0]}"]))[1]
    out = next((word.partition("=")[2] for word in rest if word.startswith("out=")), "")
    rest = [word for word in rest if not word.startswith("out=")]
    configs = [
        compose_features([*rest, f"init={init}"]) for init in inits
    ]  # all are checked before the first one starts
    folder = Path(out) if out else _folder(configs)
    if out:  # everything below one folder
        configs = [
            compose_features([*rest, f"init={init}", f"out={folder / config.folder().name}"])
            for init, config in zip(inits, configs, strict=True)
        ]
    found: dict[str, Path] = {}
    for init, config in zip(inits, configs, strict=True):
        method, run = analyse(config)
        found[_unused(method, init, found)] = run
    side_by_side(configs[0], found, folder / JOINT)
    page = report_runs([*found.values(), folder / JOINT], folder)
    say(f"{len(found)} networks side by side -> {page}")
    return folder


def _folder(configs: Sequence[FeaturesRun]) -> Path:
    first = configs[0]
    digest = config_hash({"runs": sorted(config.hash() for config in configs)})
    return Path("runs") / "features" / f"{first.analysis}-{first.name}-{digest}"


def _unused(method: str, init: str, taken: dict[str, Path]) -> str:
    """The method of the weights; where another network has that name already, with the name of its folder or file."""
    name = method if method not in taken else f"{method} {file_stem(Path(init).stem)}"
    return name if name not in taken else f"{name} ({len(taken) + 1})"


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    if is_shown(arguments):
        inits = [word for word in arguments if word.startswith("init=")]
        show([word for word in arguments if word not in inits[1:]], compose_features)
    else:
        features(arguments)
