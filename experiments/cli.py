"""The command `ssl-med`. Exit codes: 0 done; 2 the request is wrong, said in one line; 1 anything else.

`check` ends with 1 when it found an error in the data.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.run.threads import wait_without_spinning
from ssl_med.catalogue import list_names, nearest
from ssl_med.spec import SslMedError

USAGE = """\
usage: ssl-med COMMAND [key=value ...]

  list methods|presets|data|tasks|tables|maps|phantoms [--json]
                                                 what there is; a preset is a named variant: method=pcrl/contraloss
  check    data=NAME data.root=DIR [with=NAME:DIR ...] [out=DIR] [workers=N]
                                                 read every file once; report what is wrong; exit code 1 if anything is
  pretrain method=NAME data=NAME data.root=DIR   pretrain a backbone
           [online.task=NAME online.data.root=DIR]
                                                 and probe it on labels meanwhile; trainer.monitor=online/knn_auc
                                                 keeps the best weights, trainer.patience=N stops
  finetune task=NAME init=RUN|FILE|scratch data.root=DIR
                                                 train on labels, test once
  probe    task=NAME protocol=linear|knn|fewshot init=RUN|FILE|scratch data.root=DIR
                                                 what a frozen encoder knows; masks: linear only, on voxels
  probe    data=NAME protocol=pretext_rotation|pretext_position init=... data.root=DIR
                                                 the same without labels
  compare  table=NAME root.DATA=DIR [scale=small] [jobs=N] [--dry-run] [--report]
                                                 a declared matrix of runs; resumes; one report; --report: only that
  external RUN task=NAME data.root=DIR map=NAME|same [map.CLASS=CLASS ...] [part=all|test]
                                                 test a fine-tuning on another data set, without training
  report   RUNS... [out=DIR]                     report.html, report.md, results.csv
  dashboard [project=NAME] [table=NAME] [out=FILE] [--save entity=NAME tracking.wandb=online]
                                                 W&B workspace as code: a file; --save sends it
  sweep    method=NAME data=NAME data.root=DIR [out=FILE]
                                                 W&B sweep file of a method
  prepare  data=NAME data.root=RAW store=DIR     convert once into a store that data.store=DIR reads fast
  phantom  KIND OUT [--subjects N] [--seed N]    synthetic data in a true layout
  weights  inspect FILE                          what a backbone file says of itself

Any setting is an override: trainer.max_steps=500 trainer=cpu labels.fraction=0.1 labels.shots=5 transfer.protocol=frozen
seed=1 out=DIR; `pretrain method=pcrl
data=luna --show` prints all settings of a run and stops.
"""


def _check(overrides: Sequence[str]) -> int:
    from experiments.commands.check import check

    return check(overrides)


def _pretrain(overrides: Sequence[str]) -> None:
    from experiments.commands.pretrain import pretrain
    from experiments.config.run import compose_pretrain
    from ssl_med.config import to_yaml

    if "--show" in overrides:
        print(to_yaml(compose_pretrain([w for w in overrides if w != "--show"]).tree()), end="")
    else:
        pretrain(overrides)


def _finetune(overrides: Sequence[str]) -> None:
    from experiments.commands.finetune import finetune
    from experiments.config.run import compose_finetune
    from ssl_med.config import to_yaml

    if "--show" in overrides:
        print(to_yaml(compose_finetune([w for w in overrides if w != "--show"]).tree()), end="")
    else:
        finetune(overrides)


def _probe(overrides: Sequence[str]) -> None:
    from experiments.commands.probe import probe
    from experiments.config.run import compose_probe
    from ssl_med.config import to_yaml

    if "--show" in overrides:
        print(to_yaml(compose_probe([w for w in overrides if w != "--show"]).tree()), end="")
    else:
        probe(overrides)


def _compare(overrides: Sequence[str]) -> None:
    from experiments.commands.compare import compare

    compare(overrides)


def _external(overrides: Sequence[str]) -> None:
    from experiments.commands.external import external
    from experiments.config.external import compose_external
    from ssl_med.config import to_yaml

    if "--show" in overrides:
        print(to_yaml(compose_external([w for w in overrides if w != "--show"]).config.tree()), end="")
    else:
        external(overrides)


def _report(overrides: Sequence[str]) -> None:
    from experiments.commands.report import report

    report(overrides)


def _prepare(overrides: Sequence[str]) -> None:
    from experiments.commands.prepare import prepare

    prepare(overrides)


def _dashboard(overrides: Sequence[str]) -> None:
    from experiments.commands.dashboard import dashboard

    dashboard(overrides)


def _sweep(overrides: Sequence[str]) -> None:
    from experiments.commands.sweep import sweep

    sweep(overrides)


def _list(overrides: Sequence[str]) -> None:
    from experiments.comparison.table import tables
    from experiments.config.sources import names, presets

    kinds: dict[str, Callable[[], list[str] | dict[str, str]]] = {
        "methods": lambda: names("method"),
        "presets": presets,
        "data": lambda: names("data"),
        "tasks": lambda: names("task"),
        "tables": tables,
        "maps": lambda: names("map"),
        "phantoms": lambda: list_names("datamodules.phantoms"),
    }
    what = [override for override in overrides if override != "--json"]
    if len(what) != 1 or what[0] not in kinds:
        raise SslMedError(f"list: say what: {' | '.join(kinds)}")
    found = kinds[what[0]]()
    if "--json" in overrides:
        print(json.dumps(found))
    elif isinstance(found, dict):
        width = max(map(len, found), default=0)
        print("\n".join(f"{name:{width}}  {text}".rstrip() for name, text in found.items()))
    else:
        print("\n".join(found))


def _phantom(overrides: Sequence[str]) -> None:
    options, rest, iterator = {"subjects": None, "seed": 0}, [], iter(overrides)
    for override in iterator:
        name, equals, value = override.removeprefix("--").partition("=")
        if not override.startswith("--"):
            rest.append(override)
            continue
        if name not in options:
            raise SslMedError(f"phantom: option '{override}' is unknown; there are: --subjects N, --seed N")
        value = value if equals else next(iterator, "")
        if not value.isdigit():
            raise SslMedError(f"phantom: --{name} needs a whole number, not '{value}'")
        options[name] = int(value)
    kinds = list_names("datamodules.phantoms")
    if len(rest) != 2:
        raise SslMedError(f"phantom: give KIND OUT; kinds: {', '.join(kinds)}")
    if rest[0] not in kinds:
        raise SslMedError(f"phantom '{rest[0]}' is unknown{nearest(rest[0], kinds)}")
    generate = importlib.import_module(f"datamodules.phantoms.{rest[0]}").generate
    print(generate(Path(rest[1]), **{key: value for key, value in options.items() if value is not None}))


def _weights(overrides: Sequence[str]) -> None:
    from dataclasses import asdict

    from ssl_med.checkpoint import find_backbone, read_card
    from ssl_med.config import to_yaml

    if len(overrides) != 2 or overrides[0] != "inspect":
        raise SslMedError("weights: say `weights inspect FILE`")
    card = asdict(read_card(find_backbone(overrides[1])))
    for key in ("subjects", "volumes", "validated"):
        card[key] = f"{len(card[key])} hashed"
    print(to_yaml(json.loads(json.dumps(card))), end="")


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "list": _list,
    "check": _check,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "probe": _probe,
    "compare": _compare,
    "external": _external,
    "report": _report,
    "dashboard": _dashboard,
    "sweep": _sweep,
    "prepare": _prepare,
    "phantom": _phantom,
    "weights": _weights,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    wait_without_spinning()
    overrides = list(sys.argv[1:] if arguments is None else arguments)
    if not overrides or overrides[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    command, *rest = overrides
    if any(override in ("-h", "--help") for override in rest):
        print(USAGE, end="")
        return 0
    try:
        if command not in COMMANDS:
            raise SslMedError(f"command '{command}' is unknown{nearest(command, list(COMMANDS))}")
        return COMMANDS[command](rest) or 0
    except SslMedError as error:
        print(f"ssl-med: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ssl-med: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        from experiments.run.callbacks import RunError

        if not isinstance(error, RunError):
            raise
        print(f"ssl-med: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
