"""Variants of a piece of work that take turns in one process, and the settings of `make bench ARGS=speed`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.run.environment import say
from ssl_med.precision import AUTO, HALF, decide
from ssl_med.ranges import Count
from ssl_med.spec import SslMedError

TABLES = ("transforms", "genesis", "pcrl", "losses")
EXACT, LAW, NEAR, BASE = "exact", "same law", "approximate", "-"


@dataclass
class BenchSpeedConfig:
    """How long to measure, and what; the defaults are the papers' sizes."""

    only: str = ""
    """comma-separated tables; empty: all"""
    repeats: Count = 15
    """rounds of transforms and losses; their median is printed"""
    step_repeats: Count = 3
    """rounds of training steps"""
    crops: Count = 16
    """crops per round of a transform"""
    patch: tuple[int, ...] = (64, 64, 32)
    """size of a crop, in voxels"""
    windows: Count = 10_000
    """windows of local shuffling"""
    maps: Count = 64
    """shufflings of the pool"""
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    """widths of the U-Net"""
    genesis_batch: Count = 2
    """crops per training step of Models Genesis"""
    pcrl_batch: Count = 1
    """crop pairs per training step of PCRL"""
    batch: Count = 256
    """samples per loss"""
    dim: int = 128
    """length of a contrasted embedding"""
    queue: int = 16384
    """keys of the queue"""
    prototypes: int = 3000
    """clusters of Sinkhorn's algorithm"""
    ruler: int = 128
    """channels of the convolution whose rate steps are compared with"""
    bf16: bool = False
    """measure bfloat16 although the processor emulates it"""

    def __post_init__(self) -> None:
        if len(self.patch) != 3 or min(self.patch) < 24:
            raise SslMedError(
                f"patch {list(self.patch)} must be three numbers of 24 at least: smaller hold no painting"
            )
        for name in self.tables:
            if name not in TABLES:
                raise SslMedError(f"only={name}: is no table; choose of {', '.join(TABLES)}")

    @property
    def precisions(self) -> tuple[tuple[str, bool], ...]:
        """Name of each arithmetic that is measured, and whether it is bfloat16."""
        half = self.bf16 or decide(AUTO, accelerator="cpu").value == HALF
        return (("fp32", False), ("bf16", True)) if half else (("fp32", False),)

    @property
    def tables(self) -> tuple[str, ...]:
        """Those chosen."""
        return tuple(self.only.split(",")) if self.only else TABLES


@dataclass
class Variant:
    """One way to do a piece of work; `units` are the images that a call of `work` makes."""

    name: str
    equivalence: str
    work: Callable[[], Any]
    units: int = 1


def median_times(variants: Sequence[Variant], repeats: int) -> list[float]:
    """Median milliseconds of processor time per unit; a round calls each variant once, and the first is not counted."""
    found: list[list[float]] = [[] for _ in variants]
    for number in range(repeats + 1):
        for variant, times in zip(variants, found, strict=True):
            start = time.process_time()
            variant.work()
            if number:
                times.append(1000 * (time.process_time() - start) / variant.units)
    return [statistics.median(times) for times in found]


def table(title: str, pieces: dict[str, list[Variant]], repeats: int) -> list[dict[str, Any]]:
    """Prints a Markdown table of pieces and their variants, which are compared with the first of their piece."""
    say(f"\n**{title}**\n")
    say("| piece | variant | equivalence | ms | times as fast |")
    say("| --- | --- | --- | ---: | ---: |")
    rows = []
    for piece, variants in pieces.items():
        times = median_times(variants, repeats)
        for variant, ms in zip(variants, times, strict=True):
            ratio = times[0] / ms
            say(f"| {piece} | {variant.name} | {variant.equivalence} | {ms:.3g} | {ratio:.3g} |")
            rows.append({"piece": piece, "variant": variant.name, "ms": ms, "ratio": ratio})
    return rows
