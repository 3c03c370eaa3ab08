"""`make bench ARGS=data`: what one crop costs from a store and from what peers read, on this machine.

The scan is synthetic: anatomy of the LUNA16 phantom, enlarged, with detector noise of 19 HU that is correlated over a voxel.
Neighbouring voxels of seven real CTs at 1.8 mm differ by 7 to 34 HU (median absolute deviation, scaled) in soft tissue, median
18, here by 18; zlib leaves 0.44 to 0.69 of them, median 0.56, here 0.60. `scan=FILE` measures a scan of your own as well.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.core.arrays import ArrayRecord, StoredArray, write_array
from datamodules.core.crops import resize
from datamodules.core.intensity import Scale, decode
from datamodules.core.lazy import LazyCodes
from datamodules.core.readers import read_volume
from datamodules.formats.grids import Array
from datamodules.luna import LunaConfig, LunaData
from datamodules.phantoms._files import write_metaimage, write_nifti
from datamodules.phantoms.luna import generate
from experiments.commands.prepare import prepare
from experiments.run.environment import hardware, say
from ssl_med.config import build, parse_overrides
from ssl_med.methods.pcrl import PCRL
from ssl_med.ranges import Count
from ssl_med.spec import DataSpec, SslMedError

CROP = (64, 64, 32)
_PARTS = 10
_DRAWS = 52  # boxes that the authors' code draws until two overlap enough, as counted when it was run


@dataclass
class BenchDataConfig:
    """How long to measure, and what."""

    repeats: Count = 200
    """crops of a fast row; their median is printed"""
    slow_repeats: Count = 5
    """crops of a row that takes a second each"""
    size: tuple[int, ...] = (512, 512, 300)
    """voxels of the synthetic CT"""
    scan: str = ""
    """a scan of your own to measure as well: .mhd, .nii, .nii.gz"""
    tissue_max: float = 0.15
    """largest share of tissue in a training crop, as in `data=luna`"""
    batches: int = 200
    """batches of 32 crops that the loader is timed over, in ten parts"""
    folder: str = ""
    """where files are written; empty: a temporary folder, removed at the end"""

    def __post_init__(self) -> None:
        if self.batches < _PARTS:
            raise SslMedError(f"batches is {self.batches}; it must be at least {_PARTS}")
        if len(self.size) != 3 or any(n < 2 * c for n, c in zip(self.size, CROP, strict=True)):
            raise SslMedError(f"size {list(self.size)} must be three numbers, at least twice a crop of {list(CROP)}")


@dataclass
class Row:
    """Median milliseconds of wall clock and of CPU for one crop, and the bytes on disk."""

    name: str
    wall: float
    cpu: float
    disk: int


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
        rows = _storage(f"synthetic CT, {_times(config.size)} int16", array, config, folder)
        if config.scan:
            scan = read_volume(config.scan).array
            if any(n < c for n, c in zip(scan.shape, CROP, strict=True)):
                raise SslMedError(f"scan={config.scan}: is smaller than a crop of {list(CROP)} voxels")
            rows += _storage(f"real scan, {_times(scan.shape)} {scan.dtype}", scan, config, folder)
        return [*rows, *_training(array, config, folder)]
    finally:
        torch.set_num_threads(threads)
        if not config.folder:
            shutil.rmtree(folder)


def synthetic_ct(size: tuple[int, ...], folder: Path) -> Array:
    """Chest (x, y, z) int16 HU: the phantom at half the resolution, enlarged, and noise; see the head of this file."""
    half = tuple(max(24, n // 2) for n in size)
    generate(folder / "anatomy", subjects=1, size=half)
    (path,) = (folder / "anatomy").glob("subset*/*.mhd")
    anatomy = torch.from_numpy(read_volume(str(path)).array.astype(np.float32))
    shutil.rmtree(folder / "anatomy")
    rng = np.random.default_rng(0)
    out = np.empty(size, np.int16, order="F")
    kernel = torch.tensor([0.25, 0.5, 0.25])
    kernel = (kernel[:, None] * kernel)[None, None]
    # slice by slice: the enlarged floating-point volume would need a gigabyte
    for z in range(size[2]):
        place = min(max((z + 0.5) * half[2] / size[2] - 0.5, 0.0), half[2] - 1.0)
        below, share = int(place), place - int(place)
        plane = anatomy[:, :, below].lerp(anatomy[:, :, min(below + 1, half[2] - 1)], share)
        large = F.interpolate(plane[None, None], size=size[:2], mode="bilinear")[0, 0].numpy()
        white = torch.from_numpy(rng.standard_normal((size[0] + 2, size[1] + 2), dtype=np.float32))
        noise = F.conv2d(white[None, None], kernel)[0, 0].numpy() / 0.375  # the kernel's deviation
        out[:, :, z] = np.clip(np.rint(large + 19.0 * noise), -1024, 3071)
    return out


# ------------------------------------------------------------------------------------------------------ storage


def _storage(title: str, array: Array, config: BenchDataConfig, folder: Path) -> list[dict[str, Any]]:
    rows = [
        Row(name, *_time(read, _starts(array.shape, repeats)), disk)
        for name, read, disk, repeats in _readers(array, config, _clean(folder / "storage"))
    ]
    slowest, plain = rows[0].wall, array.nbytes
    say(f"**One {_times(CROP)} crop: {title}**\n")
    say("| storage | file MB | of .npy | ms | CPU ms | faster than .nii.gz |")
    say("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        share = f"{row.disk / 1e6:.0f} | {row.disk / plain:.2f}"
        say(f"| {row.name} | {share} | {row.wall:.3g} | {row.cpu:.3g} | {slowest / row.wall:,.0f} |")
    touched = _touched(array, folder / "storage", config.repeats)
    middle, largest = statistics.median(touched) / 1e6, max(touched) / 1e6
    say(
        f"\nFile bytes of the chunks that a crop from the store lies in: median {middle:.2f} MB, largest {largest:.2f} MB.\n"
    )
    return [
        *({"table": title, "row": r.name, "ms": r.wall, "cpu": r.cpu, "disk": r.disk / plain} for r in rows),
        {"table": title, "row": "touched", "bytes": max(touched)},
    ]


def _readers(
    array: Array, config: BenchDataConfig, folder: Path
) -> Iterator[tuple[str, Callable[[Array], Any], int, int]]:
    """Name, reading of the crop at a start, bytes on disk, repeats; the reference first."""
    packed = folder / "scan.nii.gz"
    write_nifti(packed, array, spacing=(0.7, 0.7, 1.0), origin=(0, 0, 0), codes="LPS")

    def full(start: Array) -> Array:
        return np.ascontiguousarray(read_volume(str(packed)).array[_window(start)])

    yield ".nii.gz, nibabel, whole volume", full, packed.stat().st_size, config.slow_repeats
    if importlib.util.find_spec("monai"):
        cache = folder / "monai"
        yield "MONAI PersistentDataset", _monai(packed, cache), _folder_size(cache), max(config.slow_repeats, 10)
    record = write_array(folder, "store", array)
    opened = _open(folder, record)
    if importlib.util.find_spec("zarr"):
        import zarr

        path = folder / "scan.zarr"
        chunked: Any = zarr.create_array(str(path), shape=array.shape, chunks=CROP, dtype=array.dtype)
        chunked[:] = array
        yield "zarr, default codec, chunks of a crop", lambda s: chunked[_window(s)], _folder_size(path), config.repeats
    else:
        say("zarr is not installed: its row is left out; pip install 'ssl-med[bench]'\n")
    plain = folder / "scan.npy"
    np.save(plain, np.ascontiguousarray(array))
    mapped = np.load(plain, mmap_mode="r")
    yield ".npy, mapped", lambda s: np.array(mapped[_window(s)]), plain.stat().st_size, config.repeats
    yield (
        "store, file opened and checked anew",
        lambda s: _read(_open(folder, record), s),
        record.nbytes,
        config.repeats,
    )
    codes = LazyCodes([lambda: opened], [Scale(-1000.0, 1000.0)], CROP)
    for start in _starts(array.shape, 4 * config.repeats):
        _read(opened, start)  # every chunk is checked once a process
    yield "**store**", lambda s: _read(opened, s), record.nbytes, config.repeats
    yield (
        "store, as a training sample (window, float32)",
        lambda s: decode(codes[(slice(None), *_window(s))]),
        record.nbytes,
        config.repeats,
    )


def _monai(packed: Path, cache: Path) -> Callable[[Array], Any]:
    from monai.data import PersistentDataset
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandSpatialCropd

    warnings.simplefilter("ignore")  # of readers that MONAI would like to have
    steps = [LoadImaged("image"), EnsureChannelFirstd("image"), RandSpatialCropd("image", CROP, random_size=False)]
    dataset = PersistentDataset([{"image": str(packed)}], Compose(steps), cache_dir=cache)
    _ = dataset[0]
    return lambda start: dataset[0]


def _open(folder: Path, record: ArrayRecord) -> StoredArray:
    return StoredArray(folder / "arrays" / record.name[:2] / f"{record.name}.b2nd", record, source="bench")


def _read(stored: StoredArray, start: Array) -> Array:
    low = start.tolist()
    return stored.read(low, [a + n for a, n in zip(low, CROP, strict=True)])


def _touched(array: Array, folder: Path, repeats: int) -> list[int]:
    """Bytes of the chunks that a crop lies in; blocks outside it are not decompressed, but count here."""
    stored = _open(folder, write_array(folder, "store", array))
    return [stored.touched(start.tolist(), (start + CROP).tolist()) for start in _starts(array.shape, repeats)]


# ----------------------------------------------------------------------------------------------------- training


def _training(array: Array, config: BenchDataConfig, folder: Path) -> list[dict[str, Any]]:
    root, store = _clean(folder / "luna"), folder / "luna_store"
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
    rows += [_loading(root, store, config), _pairs(root, store, array, config)]
    for row in rows:
        say(f"| {row['row']} | {row['text']} |")
    return rows


def _data(root: Path, store: Path, config: BenchDataConfig, *, crops: int, **options: Any) -> LunaData:
    settings = LunaConfig(name="luna", root=str(root), store=str(store), crops_per_volume=crops)
    settings.tissue_max, settings.split_ratios = config.tissue_max, (1.0, 0.0, 0.0)
    data = LunaData(settings, labelled=False, **options)
    data.setup()
    return data


def _loading(root: Path, store: Path, config: BenchDataConfig) -> dict[str, Any]:
    """Crops a second of a loader with two workers, the process pinned to two cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(cores)[:2]))
    try:
        data = _data(root, store, config, crops=32 * (config.batches + 8), batch_size=32, num_workers=2)
        rates = []
        loader = iter(data.train_dataloader())
        for _ in range(8):
            next(loader)
        for _ in range(_PARTS):
            start = time.perf_counter()
            for _ in range(config.batches // _PARTS):
                next(loader)
            rates.append(32 * (config.batches // _PARTS) / (time.perf_counter() - start))
    finally:
        os.sched_setaffinity(0, cores)
    rate = statistics.median(rates)
    text = f"{rate:,.0f} crops/s ({min(rates):,.0f} to {max(rates):,.0f})"
    return {"row": f"loader, 2 workers on 2 cores, batches of 32, {_PARTS} parts", "rate": rate, "text": text}


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


def authors_pair(
    unit: Array, size: Sequence[int], pair: Sequence[Array], *, rng: np.random.Generator
) -> list[torch.Tensor]:
    """What an accepted pair costs in the authors' preprocessing: boxes drawn one by one, copies, loops over voxels.

    Two boxes are drawn and their overlap taken, `_DRAWS` times; for each crop the volume is copied, the crop resized, and its
    tissue counted voxel by voxel. The pair itself is given, one that the filter lets pass, so that acceptance is equal and no
    rejected attempt, of which the procedure makes several a pair, is counted against it.

    Args:
        unit: the scan, windowed to [0, 1] in double precision once.
        size: of both crops.
        pair: their starts.
        rng: of the boxes.
    """
    for _ in range(_DRAWS):
        starts = rng.integers(0, np.array(unit.shape) - np.array(size) + 1, (2, 3))
        shared = math.prod(int(max(0, n - abs(a - b))) for n, a, b in zip(size, *starts, strict=True))
        _ = shared / (2 * math.prod(size) - shared)
    found = []
    for start in pair:
        crop = unit.copy()[tuple(slice(int(a), int(a) + n) for a, n in zip(start, size, strict=True))]
        small = resize(torch.from_numpy(crop)[None], CROP)[0]
        _tissue_by_loops(small.tolist())
        found.append(small)
    return found


def _tissue_by_loops(crop: list[list[list[float]]]) -> float:
    """Sum of the tissue indicator of Models Genesis, -150 HU and above."""
    total = 0.0
    for x, y, z in itertools.product(range(CROP[0]), range(CROP[1]), range(CROP[2])):
        for k in range(2):
            if crop[x][y][min(z + k, CROP[2] - 1)] >= 0.425:
                total += 1 if k == 0 else 0.5
                break
    return total


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


# ------------------------------------------------------------------------------------------------------- helpers


def _time(read: Callable[[Array], Any], starts: Array) -> tuple[float, float]:
    """Medians of wall-clock and CPU milliseconds over the starts."""
    found = []
    for start in starts:
        wall, cpu = time.perf_counter(), time.process_time()
        read(start)
        found.append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)))
    wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
    return wall, cpu


def _starts(shape: Sequence[int], count: int) -> Array:
    rng = np.random.default_rng(0)
    starts: Array = rng.integers(0, np.array(shape) - np.array(CROP) + 1, (count, 3))
    return starts


def _window(start: Array) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(a) + n) for a, n in zip(start, CROP, strict=True))


def _clean(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _folder_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _times(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
