"""`make bench ARGS=data`: what one crop costs from a store and from what peers read, on this machine.

The scan is synthetic (`experiments.bench.scans`); `scan=FILE` measures one of your own as well.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from datamodules.core.readers import read_volume
from experiments.bench.loading import loading
from experiments.bench.scans import CROP, BenchDataConfig, sides, synthetic_ct
from experiments.bench.storage import storage
from experiments.run.environment import hardware, say
from ssl_med.config import build, parse_overrides
from ssl_med.spec import SslMedError


def main(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Measures and prints Markdown tables; returns the rows of all of them."""
    config = build(BenchDataConfig, [parse_overrides(overrides)], prefix="")
    say(f"{hardware()}, {len(os.sched_getaffinity(0))} cores, one thread, warm page cache, medians\n")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = Path(config.folder or tempfile.mkdtemp(prefix="ssl_med_bench_"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        array = synthetic_ct(config.size, folder)
        rows = storage(f"synthetic CT, {sides(config.size)} int16", array, config, folder)
        if config.scan:
            scan = read_volume(config.scan).array
            if any(n < c for n, c in zip(scan.shape, CROP, strict=True)):
                raise SslMedError(f"scan={config.scan}: is smaller than a crop of {list(CROP)} voxels")
            rows += storage(f"real scan, {sides(scan.shape)} {scan.dtype}", scan, config, folder)
        return [*rows, *loading(array, config, folder)]
    finally:
        torch.set_num_threads(threads)
        if not config.folder:
            shutil.rmtree(folder)
