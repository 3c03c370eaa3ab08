"""`ssl-med features`: look at what frozen encoders have learned, one or several side by side, in numbers and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.config.kinds import FeaturesRun
from experiments.config.run import compose_features
from experiments.config.sections import SCRATCH
from experiments.config.showing import is_shown, show
from experiments.run.environment import say
from experiments.run.feature_analysis import analyse, side_by_side
from ssl_med.config import config_hash
from ssl_med.reports.escape import file_stem
from ssl_med.reports.loose_runs import comparison_of_runs
from ssl_med.reports.numbers.correlation import FEWEST, Correlation
from ssl_med.reports.page import report_runs
from ssl_med.reports.run_folder import find_runs
from ssl_med.reports.sections.features import correlations_of
from ssl_med.reports.writing import write_cases
from ssl_med.spec import SslMedError
from ssl_med.values import unquoted

USAGE = "ssl-med features kind=NAME data=NAME|task=NAME [init=RUN|FILE|scratch ...] [data.root=DIR] [key=value ...]"
EXAMPLES = (
    "ssl-med features kind=spectrum data=chest14 init=RUN init=scratch data.root=DIR",
    "ssl-med features kind=correlation RUNS out=DIR",
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
CORRELATION = "kind=correlation"
JOINT = "side_by_side"  # what relates the networks, beside their own runs
DEFAULTS = ("root", "phantoms", "trainer")


def features(overrides: Sequence[str]) -> Path:
    """Carries out an analysis for each `init`; returns the run folder, or the folder of the comparison of several."""
    if CORRELATION in overrides:
        return correlate([word for word in overrides if word != CORRELATION])
    inits = list(dict.fromkeys(word.partition("=")[2] for word in overrides if word.startswith("init="))) or [SCRATCH]
    rest = [word for word in overrides if not word.startswith("init=")]
    if len(inits) == 1:
        return analyse(compose_features([*rest, f"init={inits[0]}"]))[1]
    out = next((unquoted(word.partition("=")[2]) for word in rest if word.startswith("out=")), "")
    rest = [word for word in rest if not word.startswith("out=")]
    # all are checked before the first one starts
    configs = [compose_features([*rest, f"init={init}"]) for init in inits]
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


def correlate(arguments: Sequence[str]) -> Path:
    """Relates the numbers of finished analyses to the transfer scores of the same networks; returns the folder of the page.

    Args:
        arguments: folders of runs, and out=DIR.

    Raises:
        SslMedError: no folder, another key, or fewer networks than a correlation needs.
    """
    words = dict(word.partition("=")[::2] for word in arguments if "=" in word)
    folders = [Path(word) for word in arguments if "=" not in word]
    unknown = [key for key in words if key != "out"]
    if unknown or not folders:
        what = f"does not know '{unknown[0]}'" if unknown else "names no folder"
        raise SslMedError(f"kind=correlation {what}; say ssl-med features kind=correlation RUNS [RUNS ...] [out=DIR]")
    found = correlations_of(comparison_of_runs(find_runs(folders)))
    if not found:
        raise SslMedError(
            f"{', '.join(map(str, folders))}: fewer than {FEWEST} networks have both an analysis (ssl-med features) and a "
            "transfer score (ssl-med finetune or ssl-med probe)"
        )
    out = Path(unquoted(words.get("out", "")) or "runs/features/correlation")
    write_cases(out, [_row(one) for one in found], name="correlation.csv", first="number")
    for one in found[:10]:
        networks = f"{len(one.x)} networks"
        say(f"{one.number} | {one.score}: Spearman {one.spearman}, Pearson {one.pearson}, {networks}")
    say(f"{len(found)} correlations -> {report_runs(folders, out)}")
    return out


def _row(found: Correlation) -> dict[str, Any]:
    row: dict[str, Any] = {"number": found.number, "score": found.score, "networks": len(found.x)}
    for name, interval in (("pearson", found.pearson), ("spearman", found.spearman)):
        row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


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
