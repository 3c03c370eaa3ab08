"""`make bench`: what a training step of each method costs on this machine, and how much of it is making views.

Methods run with their default configs on random numbers, so no data is needed and no reading is measured. The optimiser's
own update is left out. `make bench ARGS="batch=32 patch_3d=[64,64,32] channels=[32,64,128,256,512]"` is the papers' size.
Instead, `make bench ARGS=data` measures reading, `ARGS=speed` transforms, losses and steps against their definitions, and
`ARGS=precision` trains in float32 and in bfloat16: see `experiments.bench.data`, `bench_speed` and `bench_precision`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from experiments.run.environment import hardware, say
from ssl_med.catalogue import get_class, list_names
from ssl_med.config import build, parse_overrides
from ssl_med.methods.core.base import Method
from ssl_med.networks.backbone import backbone_config
from ssl_med.optim import OptimConfig
from ssl_med.ranges import Count
from ssl_med.spec import Batch, DataSpec

T = TypeVar("T")
METHODS = "ssl_med.methods"


@dataclass
class BenchConfig:
    """How long to measure, and what."""

    steps: Count = 10
    """measured steps; their median is printed"""
    warmup: int = 2
    """steps before them"""
    batch: Count = 8
    """samples per step"""
    methods: str = ""
    """comma-separated names; empty: all"""
    patch_2d: tuple[int, ...] = (64, 64)
    """size of an image, in pixels"""
    patch_3d: tuple[int, ...] = (32, 32, 16)
    """size of a crop, in voxels"""
    channels: tuple[int, ...] = (8, 16, 32, 64)
    """widths of the U-Net"""


@dataclass
class Times:
    """Median milliseconds of the parts of a step."""

    views: float
    forward: float
    backward: float

    @property
    def step(self) -> float:
        """All parts together."""
        return self.views + self.forward + self.backward


def measure(method: Method, config: BenchConfig) -> Times:
    """Runs whole steps on random images and times their parts."""
    device = next(method.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    spec = method.spec
    shape = (config.batch, spec.in_channels, *spec.patch_size)
    batch: Batch = {"image": torch.rand(shape, device=device), "index": torch.arange(config.batch, device=device)}
    batch["id"] = [str(k) for k in range(config.batch)]
    need = method.need(method.config, spec)
    if need.pair:
        batch["image2"] = torch.rand(shape, device=device)
    if need.positions is not None:
        batch["instance"] = batch["index"] % need.positions.count
        batch["scan"] = torch.rand((*shape[:2], *need.positions.thumbnail), device=device)
        batch["case"] = batch["index"]
    found: list[tuple[float, float, float]] = []
    method.train()
    for _ in range(config.warmup + config.steps):
        with torch.no_grad():
            views, a = _timed(lambda: method.views(batch, generator), device)
        terms, b = _timed(lambda views=views: method.terms(views), device)  # type: ignore[misc]
        _, c = _timed(terms["loss"].backward, device)
        method.zero_grad()
        found.append((a, b, c))
    return Times(*(statistics.median(column) for column in zip(*found[config.warmup :], strict=True)))


def _timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, 1000 * (time.perf_counter() - start)


def make_method(name: str, config: BenchConfig, *, spatial_dims: int) -> Method:
    """A method with its default config on a U-Net."""
    patch = config.patch_2d if spatial_dims == 2 else config.patch_3d
    spec = DataSpec(name="random", spatial_dims=spatial_dims, in_channels=1, patch_size=patch)
    method_class = get_class(METHODS, name, kind="method", base=Method)
    backbone = backbone_config("unet", channels=config.channels)
    optim = OptimConfig()
    method = method_class(method_class.Config(), spec=spec, backbone=backbone, optim=optim, batch_size=config.batch)
    assert isinstance(method, Method)
    return method


def main(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Measures and prints a Markdown table; returns its rows."""
    config = build(BenchConfig, [parse_overrides(overrides)], prefix="")
    chosen = [name for name in config.methods.split(",") if name] or list_names(METHODS)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    say(f"{hardware()}, torch {torch.__version__}, batch {config.batch}, median of {config.steps} steps, float32\n")
    say("| method | crop | views ms | forward ms | backward ms | step ms | samples/s | views % |")
    say("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    for name in chosen:
        for spatial_dims in (2, 3):
            method = make_method(name, config, spatial_dims=spatial_dims).to(device)
            t = measure(method, config)
            crop = "×".join(map(str, method.spec.patch_size))
            rate, share = 1000 * config.batch / t.step, 100 * t.views / t.step
            parts = f"{t.views:.1f} | {t.forward:.1f} | {t.backward:.1f} | {t.step:.1f}"
            say(f"| {name} | {crop} | {parts} | {rate:.0f} | {share:.0f} |")
            rows.append({"method": name, "crop": crop, "views": t.views, "step": t.step, "rate": rate})
    return rows
