"""From the overrides of a command line to a data set and what to do with it: `ssl-med prepare` and `ssl-med check`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from datamodules.core.base import MedicalData
from experiments.config.sources import choose, gather, keys_of, method_class_of
from ssl_med.config import COMMAND_LINE, Layer
from ssl_med.ranges import Processes
from ssl_med.spec import SslMedError


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


def compose_source(name: str, root: str) -> tuple[type[MedicalData], Any]:
    """A family with its default settings, at a root."""
    said = gather({"data": name}, Layer(COMMAND_LINE, {"data": {"root": root}}), order=("data",))
    return said.data_class, said.data
