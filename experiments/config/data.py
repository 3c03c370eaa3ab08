"""From the overrides of a command line to a data set and what to do with it: `ssl-med prepare`, `check` and `plan`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from datamodules.core.base import MedicalData
from experiments.config.sections import TrainerConfig
from experiments.config.sources import choose, gather, keys_of, method_class_of
from ssl_med.config import COMMAND_LINE, Layer
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.optim import OptimConfig
from ssl_med.ranges import Processes
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.values import unquoted

PLANNED = ("plainconv", "resenc")  # networks that a plan describes


@dataclass
class PrepareConfig:
    """What `ssl-med prepare` does besides reading the data set."""

    store: str = ""
    """folder to write; outside data.root"""
    workers: Processes = 0
    """processes, each with one volume in memory; 0: one per core"""
    verify: bool = False
    """read back everything that is in the store already, and replace what is damaged"""

    def __post_init__(self) -> None:
        if not self.store:
            raise SslMedError(
                "store=DIR is missing: say where to write, ssl-med prepare data=NAME data.root=RAW store=DIR"
            )


@dataclass
class PlanConfig:
    """Keys of `ssl-med plan` besides those that it plans."""

    memory: str = ""
    """memory of the GPU, such as 24GB; empty: that of this machine's first GPU, or 8GB"""
    out: str = ""
    """yaml file to write the plan to, for config=FILE of the other commands"""
    workers: Processes = 0
    """processes that read scans; 0: one per core"""


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made for.

    * memory: in bytes. * network: name of the backbone. * optimiser, task_config: of the task's recipe.
    * given: dotted key -> value, of what is planned but stands on the command line: it stays, and rules the rest.
    """

    task: str
    config: PlanConfig
    memory: int
    network: str
    optimiser: str
    task_config: TaskConfig
    data_class: type[MedicalData]
    data: Any
    spec: DataSpec
    given: dict[str, Any]


@dataclass
class CheckConfig:
    """Keys of `ssl-med check` besides data."""

    out: str = ""
    """folder of the report; empty: runs/check/<data>-<hash of root>"""
    use: Literal["auto", "pretrain", "finetune"] = "auto"
    """what the data are for: pretrain needs no labels, finetune needs them; auto: finetune where there are labels"""
    workers: Processes = field(
        default_factory=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    )
    """processes that read"""


def compose_prepare(overrides: Sequence[str]) -> tuple[PrepareConfig, MedicalData]:
    """`data=luna data.root=RAW store=DIR [method=pcrl] ...`; a method says which crops it will ask for."""
    own = keys_of(PrepareConfig)
    chosen, line = choose(overrides, required=("data",), optional=("method",), keys=("data", "method", *own))
    said = gather(chosen, line, order=("data", "method"))
    if said.data.store:
        raise SslMedError(f"command line: prepare writes to store=DIR, not data.store; say store={said.data.store}")
    need = None
    if "method" in chosen:
        method_class = method_class_of(chosen["method"])
        method: Any = said.settings.section("method").build(method_class.Config, prefix="method")
        need = method_class.need(method, said.data_class.make_spec(said.data, labelled=False))
    settings = said.settings.top(own).build(PrepareConfig, prefix="")
    return settings, said.data_class(said.data, need=need, labelled=False, batch_size=1)


def compose_check(overrides: Sequence[str]) -> tuple[CheckConfig, type[MedicalData], Any]:
    """`data=lits data.root=DIR out=DIR workers=4` -> settings, family, its config."""
    own = keys_of(CheckConfig)
    chosen, line = choose(overrides, required=("data",), keys=("data", *own))
    said = gather(chosen, line, order=("data",), keys=("data", *own))
    return said.settings.top(own).build(CheckConfig, prefix=""), said.data_class, said.data


_INTENSITY = ("intensity_low", "intensity_high", "normalisation", "intensity_mean", "intensity_sd")
_PLANNED = ("spacing_mm", "patch_size", "image_size", *_INTENSITY)


def compose_plan(overrides: Sequence[str]) -> PlanRequest:
    """`task=lits data.root=DIR memory=24GB ...` -> PlanRequest."""
    own = keys_of(PlanConfig)
    keys = ("task", "data", "trainer", "backbone", *own)
    chosen, line = choose(overrides, required=("task",), optional=("data", "backbone"), keys=keys)
    network = unquoted(line.section("backbone").tree.get("name", "")) or chosen.pop("backbone", "") or PLANNED[0]
    if network not in PLANNED or set(line.section("backbone").tree) - {"name"}:
        raise SslMedError(
            f"backbone={network}: a plan decides kernels, strides and widths of {' or '.join(PLANNED)}; say backbone=NAME with "
            "one of these and nothing else of it"
        )
    said = gather(chosen, line, order=("data", "task"))
    spec = said.data_class.make_spec(said.data, labelled=True)
    if spec.target != "mask":
        raise SslMedError(f"task={chosen['task']}: has no masks; a plan is for segmentation")
    config = said.settings.top(own).build(PlanConfig, prefix="")
    data = {key: getattr(said.data, key) for key in _PLANNED if key in line.section("data").tree}
    batch = said.settings.section("trainer").build(TrainerConfig, prefix="trainer").batch_size
    trainer = {"trainer.batch_size": batch} if "batch_size" in line.section("trainer").tree else {}
    return PlanRequest(
        task=chosen["task"],
        config=config,
        memory=_bytes_of(config.memory),
        network=network,
        optimiser=said.settings.section("optim").build(OptimConfig, prefix="optim").name,
        task_config=said.settings.section("task").build(TaskConfig, prefix="task"),
        data_class=said.data_class,
        data=said.data,
        spec=spec,
        given={f"data.{key}": value for key, value in data.items()} | trainer,
    )


def _bytes_of(memory: str) -> int:
    """Bytes of `24GB`; GPUs are sold in GiB and called GB."""
    import torch

    if not memory:
        found = torch.cuda.is_available()
        return int(torch.cuda.get_device_properties(0).total_memory) if found else 8 * 2**30
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)\s*(G|GB|GiB|M|MB|MiB)", memory.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise SslMedError(f"memory={memory}: is no amount of memory; say memory=24GB")
    return int(float(match[1]) * (2**30 if match[2][0] in "gG" else 2**20))


def compose_source(name: str, root: str) -> tuple[type[MedicalData], Any]:
    """A family with its default settings, at a root."""
    said = gather({"data": name}, Layer(COMMAND_LINE, {"data": {"root": root}}), order=("data",))
    return said.data_class, said.data
