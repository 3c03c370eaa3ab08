"""What rows took: time, energy, memory and size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_med.reading import UnreadableError, safetensors_header
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.run_folder import BACKBONE, Run

# of a core with its share of memory and mainboard, of a GPU with its share of the host
CPU_WATTS, GPU_WATTS = 10.0, 400.0
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Cost:
    """What a row took: mean seconds of one pretraining and of one run of each column, hours of all its runs, and energy."""

    pretraining: float
    finals: Mapping[str, float]
    hours: float
    kwh: float
    peak_mb: float
    parameters: int


def costs(comparison: Comparison) -> dict[str, Cost]:
    """Of each row, over its finished runs. A pretraining that rows share counts for each of them."""
    found = {}
    for row in comparison.design.rows:
        mine = [entry for entry in comparison.entries if entry.row == row and not entry.why]
        starts = {entry.starts for entry in mine if entry.starts}
        first = [entry.run for entry in comparison.of("pretrain") if entry.run.folder in starts and not entry.why]
        first = first or [entry.run for entry in mine if entry.role == "pretrain"]
        final = [entry for entry in mine if entry.role == "final"]
        runs = [*first, *(entry.run for entry in mine if entry.role != "pretrain")]
        peaks = [float(run.summary["peak_mb"]) for run in runs if run.summary.get("peak_mb")]
        found[row] = Cost(
            pretraining=_mean([seconds(run) for run in first]),
            finals={
                c.label: _mean([seconds(e.run) for e in final if e.column == c.label])
                for c in comparison.design.columns
            },
            hours=sum(seconds(run) for run in runs) / 3600,
            kwh=sum(seconds(run) * watts(run) for run in runs) / 3.6e6,
            peak_mb=max(peaks, default=math.nan),
            parameters=max((parameters(run.folder) for run in first), default=0),
        )
    return found


def seconds(run: Run) -> float:
    """Of a run as it recorded them."""
    return float(run.summary.get("seconds") or 0.0)


def watts(run: Run) -> float:
    """Assumed power, from the number of GPUs or threads that the run recorded."""
    text = str(run.summary.get("hardware") or "")
    if gpus := re.match(r"(\d+) x ", text):
        return GPU_WATTS * int(gpus[1])
    threads = re.search(r"(\d+) threads", text)
    return CPU_WATTS * int(threads[1] if threads else 1)


def parameters(folder: Path) -> int:
    """Numbers in the pretrained backbone of a run, encoder and decoder, from the file's header; 0 if there is none to read."""
    try:
        shapes = safetensors_header(folder / BACKBONE)
    except UnreadableError:
        return 0
    return sum(math.prod(shape) for name, shape in shapes.items() if name.rsplit(".")[-1] not in _BUFFERS)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
