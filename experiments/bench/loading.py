"""Preparing a store, loading batches from it, crop pairs of PCRL: the second table of `make bench ARGS=data`."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.grids import Array
from datamodules.luna import LunaConfig, LunaData
from datamodules.phantoms._files import write_metaimage
from experiments.bench.references import authors_pair
from experiments.bench.scans import CROP, PARTS, BenchDataConfig, emptied
from experiments.commands.prepare import prepare
from experiments.run.environment import say
from ssl_med.methods.pcrl import PCRL
from ssl_med.spec import DataSpec


def loading(array: Array, config: BenchDataConfig, folder: Path) -> list[dict[str, Any]]:
    """Measures them on two scans and prints a Markdown table; returns its rows."""
    root, store = emptied(folder / "luna"), folder / "luna_store"
    for number in range(2):
        (root / f"subset{number}").mkdir()
        scan = array if number == 0 else array[::-1]
        place, name = root / f"subset{number}", f"2.25.{number}"
        write_metaimage(place, name, scan, spacing=(0.7, 0.7, 1.0), origin=(0, 0, 0), packed=True, turned=False)
    rows = [_preparation(root, store, array, config)]
    shutil.rmtree(store, ignore_errors=True)
    before, os.environ["SSL_MED_QUIET"] = os.environ.get("SSL_MED_QUIET", "0"), "1"
    sizes = ["data=luna", f"data.root={root}", f"store={store}", "method=pcrl", f"data.tissue_max={config.tissue_max}"]
    prepare([*sizes, "workers=2"])
    os.environ["SSL_MED_QUIET"] = before
    say("\n**Training from the store**\n")
    say("| what | result |")
    say("| --- | ---: |")
    rows += [_batches(root, store, config), _pairs(root, store, array, config)]
    for row in rows:
        say(f"| {row['row']} | {row['text']} |")
    return rows


def _data(root: Path, store: Path, config: BenchDataConfig, *, crops: int, **options: Any) -> LunaData:
    settings = LunaConfig(name="luna", root=str(root), store=str(store), crops_per_volume=crops)
    settings.tissue_max, settings.split_ratios = config.tissue_max, (1.0, 0.0, 0.0)
    data = LunaData(settings, labelled=False, **options)
    data.setup()
    return data


def _batches(root: Path, store: Path, config: BenchDataConfig) -> dict[str, Any]:
    """Crops a second of a loader with two workers, the process pinned to two cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(cores)[:2]))
    try:
        data = _data(root, store, config, crops=32 * (config.batches + 8), batch_size=32, num_workers=2)
        rates = []
        loader = iter(data.train_dataloader())
        for _ in range(8):
            next(loader)
        for _ in range(PARTS):
            start = time.perf_counter()
            for _ in range(config.batches // PARTS):
                next(loader)
            rates.append(32 * (config.batches // PARTS) / (time.perf_counter() - start))
    finally:
        os.sched_setaffinity(0, cores)
    rate = statistics.median(rates)
    text = f"{rate:,.0f} crops/s ({min(rates):,.0f} to {max(rates):,.0f})"
    return {"row": f"loader, 2 workers on 2 cores, batches of 32, {PARTS} parts", "rate": rate, "text": text}


def _pairs(root: Path, store: Path, array: Array, config: BenchDataConfig) -> dict[str, Any]:
    """PCRL's crop pairs: from the store, and by the authors' procedure with the same acceptance."""
    spec = DataSpec(name="luna", spatial_dims=3, in_channels=1, patch_size=CROP)
    need = PCRL.need(PCRL.Config(), spec)
    data = _data(root, store, config, crops=config.repeats, batch_size=1, need=need)
    dataset: Any = data.dataset(data.parts["train"], part="train")
    ours = []
    for index in range(len(dataset)):
        start = time.perf_counter()
        dataset[0, index]
        ours.append(1000 * (time.perf_counter() - start))
    rng = np.random.default_rng(0)
    unit = np.ascontiguousarray(np.clip((array.astype(np.float64) + 1000) / 2000, 0, 1))
    tables = [starts for starts in dataset.read(data.parts["train"][0]).starts.values() if starts.count]
    theirs = []
    for number in range(config.slow_repeats):
        starts = tables[number % len(tables)]
        pair = starts.draw_pair(need.min_iou, rng)
        start = time.perf_counter()
        authors_pair(unit, starts.size, pair, rng=rng)
        theirs.append(1000 * (time.perf_counter() - start))
    ratio = statistics.mean(theirs) / statistics.mean(ours)
    text = f"{statistics.mean(ours):.1f} ms, authors' procedure {statistics.mean(theirs):,.0f} ms: {ratio:,.0f} times"
    return {"row": "PCRL pair, mean over the sizes", "ours": statistics.mean(ours), "ratio": ratio, "text": text}


_PEAK = """
import re, sys, time
from pathlib import Path
from experiments.commands.prepare import prepare

def kilobytes():  # getrusage would report what the parent held
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before, start = kilobytes(), time.perf_counter()
prepare(sys.argv[1:])
seconds = time.perf_counter() - start
print(seconds, 1024 * before, 1024 * kilobytes())
"""


def _preparation(root: Path, store: Path, array: Array, config: BenchDataConfig) -> dict[str, Any]:
    """Time and peak memory of `prepare` in a process of its own."""
    environment = {**os.environ, "SSL_MED_QUIET": "1", "OMP_NUM_THREADS": "1"}
    overrides = [
        "data=luna",
        f"data.root={root}",
        f"store={store}",
        "workers=1",
        f"data.tissue_max={config.tissue_max}",
    ]
    command = [sys.executable, "-c", _PEAK, *overrides]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, before, peak = (float(word) for word in done.stdout.splitlines()[-1].split())
    volumes = (peak - before) / array.nbytes
    each = seconds / 2
    text = (
        f"{each:.1f} s a scan, {array.nbytes / 1e6 / each:.0f} MB/s; "
        f"peak {volumes:.2f} volumes above the {before / 1e6:.0f} MB of the idle process"
    )
    return {"row": "prepare, one worker", "seconds": each, "volumes": volumes, "text": text}
