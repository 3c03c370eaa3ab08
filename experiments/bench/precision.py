"""`make bench ARGS=precision`: whether training in bfloat16 reaches the loss of training in float32.

Models Genesis restores crops of synthetic chest CTs. Both precisions start from the same weights and see the same crops and
corruptions in the same order; seeds change all three. bfloat16 is autocast as in `trainer.precision=bf16-mixed`: weights,
their gradients and losses stay in float32. Where the processor emulates bfloat16 the runs would take hours: they are left out
unless bf16=true asks for them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.core.readers import read_volume
from datamodules.phantoms.luna import generate
from experiments.run.environment import hardware, say
from ssl_med.config import build, parse_overrides
from ssl_med.methods.models_genesis import ModelsGenesis, ModelsGenesisConfig
from ssl_med.networks.backbone import backbone_config
from ssl_med.optim import OptimConfig
from ssl_med.precision import AUTO, HALF, decide
from ssl_med.ranges import Count
from ssl_med.rng import seeded_generator
from ssl_med.spec import Batch, DataSpec, SslMedError

_DRAWS = 0xC20B5  # word of the generator of the crops


@dataclass
class BenchPrecisionConfig:
    """How long to train, and what."""

    steps: Count = 150
    """optimiser steps of a run"""
    last: Count = 30
    """steps whose mean loss is compared"""
    seeds: Count = 3
    """runs of each precision"""
    batch: Count = 4
    """crops per step"""
    volumes: Count = 4
    """synthetic CTs"""
    size: tuple[int, ...] = (96, 96, 64)
    """voxels of a CT"""
    patch: tuple[int, ...] = (32, 32, 16)
    """size of a crop, in voxels"""
    channels: tuple[int, ...] = (8, 16, 32, 64)
    """widths of the U-Net"""
    lr: float = 1e-3
    """learning rate of Adam"""
    bf16: bool = False
    """train although the processor emulates bfloat16"""

    def __post_init__(self) -> None:
        if self.last > self.steps:
            raise SslMedError(f"last is {self.last}; there are only steps={self.steps}")
        if (
            len(self.size) != 3
            or len(self.patch) != 3
            or any(p > s for p, s in zip(self.patch, self.size, strict=True))
        ):
            raise SslMedError(f"patch {list(self.patch)} does not fit CTs of size {list(self.size)}")


def main(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Trains and prints a Markdown table; returns its rows."""
    config = build(BenchPrecisionConfig, [parse_overrides(overrides)], prefix="")
    say(f"{hardware()}, torch {torch.__version__}, one thread")
    automatic = decide(AUTO, accelerator="cpu")
    if automatic.value != HALF and not config.bf16:
        say(f"left out, because {automatic.why}; bf16=true trains anyway")
        return []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        volumes = _volumes(config)
        runs = [
            {name: _train(volumes, config, seed, bf16=name == "bf16") for name in ("fp32", "bf16")}
            for seed in range(config.seeds)
        ]
    finally:
        torch.set_num_threads(threads)
    say(f"\n**Loss of Models Genesis, mean of steps {config.steps - config.last + 1} to {config.steps}**\n")
    say("| seed | first step, fp32 | first step, bf16 | fp32 | bf16 | difference | s, fp32 | s, bf16 |")
    say("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    for seed, run in enumerate(runs):
        (losses, seconds), (half_losses, half_seconds) = run["fp32"], run["bf16"]
        single, half = (statistics.mean(curve[-config.last :]) for curve in (losses, half_losses))
        first = f"{losses[0]:.4f} | {half_losses[0]:.4f}"
        say(
            f"| {seed} | {first} | {single:.4f} | {half:.4f} | {half - single:+.4f} | {seconds:.0f} | {half_seconds:.0f} |"
        )
        rows.append({"seed": seed, "first": losses[0], "fp32": single, "bf16": half})
    columns = [
        [row["fp32"] for row in rows],
        [row["bf16"] for row in rows],
        [row["bf16"] - row["fp32"] for row in rows],
    ]
    means = " | ".join(f"{statistics.mean(column):.4f}" for column in columns)
    say(f"| mean | | | {means} | | |")
    if len(rows) > 1:
        spreads = " | ".join(f"{statistics.stdev(column):.4f}" for column in columns)
        say(f"| standard deviation | | | {spreads} | | |")
    return rows


def _volumes(config: BenchPrecisionConfig) -> list[Tensor]:
    """Chest phantoms (1, x, y, z), -1000 to 1000 HU scaled to [0, 1]."""
    with tempfile.TemporaryDirectory(prefix="ssl_med_bench_") as folder:
        generate(Path(folder), subjects=config.volumes, size=config.size)
        paths = sorted(Path(folder).glob("subset*/*.mhd"))
        arrays = [read_volume(str(path)).array.astype(np.float32) for path in paths]
    return [torch.from_numpy(((array + 1000) / 2000).clip(0, 1))[None] for array in arrays]


def _crops(volumes: list[Tensor], config: BenchPrecisionConfig, generator: torch.Generator) -> Tensor:
    """A batch of random crops (B, 1, *S)."""
    crops = []
    for _ in range(config.batch):
        volume = volumes[int(torch.randint(len(volumes), (), generator=generator))]
        for axis, side in enumerate(config.patch, start=1):
            start = int(torch.randint(volume.shape[axis] - side + 1, (), generator=generator))
            volume = volume.narrow(axis, start, side)
        crops.append(volume)
    return torch.stack(crops)


def _train(volumes: list[Tensor], config: BenchPrecisionConfig, seed: int, *, bf16: bool) -> tuple[list[float], float]:
    """Loss of every step, and seconds of all of them."""
    torch.manual_seed(seed)
    spec = DataSpec(name="phantom", spatial_dims=3, in_channels=1, patch_size=config.patch)
    backbone = backbone_config("unet", channels=config.channels)
    method = ModelsGenesis(
        ModelsGenesisConfig(), spec=spec, backbone=backbone, optim=OptimConfig(), batch_size=config.batch
    ).train()
    optimizer = torch.optim.Adam(method.parameters(), lr=config.lr)
    generator = seeded_generator(seed, _DRAWS, device=torch.device("cpu"))
    losses, start = [], time.perf_counter()
    for _ in range(config.steps):
        batch: Batch = {"image": _crops(volumes, config, generator)}
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = method.losses(batch, generator)["loss"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, time.perf_counter() - start
