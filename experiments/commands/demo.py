"""`ssl-med demo`: carry out the suite's main job on synthetic scans, in minutes on two cores, with nothing to download.

Phantom radiographs and CTs -> the comparison that tables/demo.yaml declares, as many runs at a time as there are cores -> its
report. What pretraining was worth is said from the measured numbers.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.run.environment import hardware, say
from experiments.run.threads import cores, wait_without_spinning
from ssl_med.spec import SslMedError

USAGE = "ssl-med demo"
EXAMPLES = ("ssl-med demo", "make demo")

RADIOGRAPHS, PIXELS = 80, (48, 48)  # coarse, but seconds instead of minutes
SCANS, VOXELS = 14, (64, 64, 48)  # of about 2.7 mm
MOST = 6  # runs at a time; each takes about 0.7 GB of memory


def main(root: Path = Path("runs/demo")) -> Path:
    """Carries out or continues the demo below `root`; returns its folder, which holds report.html."""
    wait_without_spinning()
    from datamodules.phantoms import lits, montgomery
    from experiments.commands.compare import cells, compare, open_plan

    start = time.monotonic()
    say(f"demo on {hardware()}: a few minutes on two cores; the same command goes on after an interruption")
    phantoms = root / "phantoms"
    radiographs = montgomery.generate(phantoms / "montgomery", subjects=RADIOGRAPHS, size=PIXELS)
    scans = lits.generate(phantoms / "lits", subjects=SCANS, size=VOXELS)
    roots = [f"root.montgomery={radiographs}", f"root.lits={scans}"]
    overrides = ["table=demo", f"out={root}", *roots, f"jobs={min(cores(), MOST)}"]
    out = compare(overrides)
    plan, _ = open_plan(overrides)
    baseline = plan.table.baseline
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for node, run in cells(plan, {}):
        found[f"{node.column} from {100 * node.fraction:g} % of the labels", node.row][node.seed] = run.value
    for (what, row), values in found.items():
        if row != baseline:
            say(f"{what}: {verdict(row, values, found[what, baseline], baseline=baseline)}")
    say(f"demo finished in {time.monotonic() - start:.0f} s; open {out / 'report.html'}")
    return out


def verdict(row: str, values: dict[int, float], reference: dict[int, float], *, baseline: str) -> str:
    """What a row is worth against the baseline: means over seeds, in how many seeds it is higher, and what that says."""
    seeds = sorted(values.keys() & reference.keys())
    higher = sum(values[seed] > reference[seed] for seed in seeds)
    ours, theirs = (_mean(part[seed] for seed in seeds) for part in (values, reference))
    if higher == len(seeds):
        worth = "pretraining helps here"
    elif higher == 0:
        worth = "pretraining does harm here"
    else:
        worth = "these seeds show neither help nor harm"
    return f"{row} {ours:.3f}, {baseline} {theirs:.3f}, higher in {higher} of {len(seeds)} seeds: {worth}"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    if arguments:
        raise SslMedError(f"demo: takes no settings, not '{arguments[0]}'")
    main()
