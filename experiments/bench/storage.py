"""One crop from each kind of file: the first table of `make bench ARGS=data`."""

from __future__ import annotations

import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.core.arrays import ArrayRecord, StoredArray, write_array
from datamodules.core.intensity import Scale, decode
from datamodules.core.lazy import LazyCodes
from datamodules.core.readers import read_volume
from datamodules.formats.grids import Array
from datamodules.phantoms._files import write_nifti
from experiments.bench.scans import CROP, BenchDataConfig, emptied, sides
from experiments.run.environment import say


@dataclass
class Row:
    """Median milliseconds of wall clock and of CPU for one crop, and the bytes on disk."""

    name: str
    wall: float
    cpu: float
    disk: int


def storage(title: str, array: Array, config: BenchDataConfig, folder: Path) -> list[dict[str, Any]]:
    """Reads the same crops from each kind of file and prints a Markdown table; returns its rows."""
    rows = [
        Row(name, *_time(read, _starts(array.shape, repeats)), disk)
        for name, read, disk, repeats in _readers(array, config, emptied(folder / "storage"))
    ]
    slowest, plain = rows[0].wall, array.nbytes
    say(f"**One {sides(CROP)} crop: {title}**\n")
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


def _folder_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
