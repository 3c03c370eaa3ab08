"""From the overrides of a command line to a data set and what to do with it: `ssl-med prepare` and `ssl-med check`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datamodules.core.base import MedicalData
from experiments.config.sources import (
    build_data,
    build_section,
    build_top,
    check_keys,
    choose,
    config_sources,
    data_class_of,
    method_class_of,
)
from ssl_med.config import Layer
from ssl_med.spec import SslMedError


@dataclass
class PrepareConfig:
    """What `ssl-med prepare` does besides reading the data set."""

    store: str = ""
    """folder to write; outside data.root"""
    workers: int = 0
    """processes, each with one volume in memory; 0: one per core"""
    verify: bool = False
    """read back everything that is in the store already, and replace what is damaged"""

    def __post_init__(self) -> None:
        if not self.store:
            raise SslMedError(
                "store=DIR is missing: say where to write, ssl-med prepare data=NAME data.root=RAW store=DIR"
            )
        if self.workers < 0:
            raise SslMedError(f"workers is {self.workers}; it must be 0 or more")


@dataclass
class CheckConfig:
    """Keys of `ssl-med check` besides data."""

    out: str = ""
    """folder of the report; empty: runs/check/<data>-<hash of root>"""
    workers: int = field(
        default_factory=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    )
    """processes that read"""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise SslMedError(f"workers is {self.workers}; it must be 0 or more")


def compose_prepare(overrides: Sequence[str]) -> tuple[PrepareConfig, MedicalData]:
    """`data=luna data.root=RAW store=DIR [method=pcrl] ...`; a method says which crops it will ask for."""
    chosen, line = choose(overrides, required=("data",), optional=("method",))
    data_class = data_class_of(chosen["data"])
    layers = config_sources(chosen, line, ("data", "method"), data_class, chosen["data"])
    own = ("store", "workers", "verify")
    check_keys([line], ("data", "method", *own))
    data = build_data(data_class, chosen["data"], [Layer("", {"data": {"store": ""}}), *layers])
    if data.store:
        raise SslMedError(f"command line: prepare writes to store=DIR, not data.store; say store={data.store}")
    need = None
    if "method" in chosen:
        method_class = method_class_of(chosen["method"])
        method: Any = build_section(method_class.Config, layers, "method")
        need = method_class.need(method, data_class.make_spec(data, labelled=False))
    settings = build_top(PrepareConfig, [line], own)
    return settings, data_class(data, need=need, labelled=False, batch_size=1)


def compose_check(overrides: Sequence[str]) -> tuple[CheckConfig, type[MedicalData], Any]:
    """`data=lits data.root=DIR out=DIR workers=4` -> settings, family, its config."""
    chosen, line = choose(overrides, required=("data",), optional=())
    data_class, data, layers = _data_only(chosen["data"], line)
    check_keys(layers, ("data", "out", "workers"))
    return build_top(CheckConfig, layers, ("out", "workers")), data_class, data


def compose_source(name: str, root: str) -> tuple[type[MedicalData], Any]:
    """A family with its default settings, at a root."""
    data_class, data, _ = _data_only(name, Layer("command line", {"data": {"root": root}}))
    return data_class, data


def _data_only(name: str, line: Layer) -> tuple[type[MedicalData], Any, list[Layer]]:
    data_class = data_class_of(name)
    layers = config_sources({"data": name}, line, ("data",), data_class, name)
    return data_class, build_data(data_class, name, layers), layers
