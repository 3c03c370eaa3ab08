"""`make bench ARGS="baseline root=DIR"`: our baseline without pretraining beside other recipes, in equal processor time.

Each recipe trains on hippocampus (Decathlon Task04, data.split=random) for the same processor minutes with one thread, and
predicts the same test cases; all are scored by one Dice. Ours has `ours=[...]` on top of `task=hippocampus`, MONAI's is that of
its spleen tutorial, nnU-Net's runs by the Python of an environment that has nnunetv2 (python=VENV/bin/python). Training and
validation parts are one for the others, which select nothing; ours trains on the training part alone. Only training counts as
processor time, but of ours also its start, validation and test.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.core.readers import read_volume
from datamodules.msd import MsdConfig, MsdData
from experiments.bench import baselines
from experiments.run.environment import hardware, say
from ssl_med.config import build, parse_overrides
from ssl_med.evaluation.bootstrap import bootstrap, mean_of
from ssl_med.evaluation.scores import dice_per_region
from ssl_med.ranges import Count, Positive, Seed
from ssl_med.reports.run_folder import read_cases
from ssl_med.spec import SslMedError

SYSTEMS = ("ours", "monai", "nnunet")
_SCRIPTS = Path(baselines.__file__).parent
_PROBE = (4, 12)  # steps of two short runs, whose difference is what a step costs


@dataclass
class BenchBaselineConfig:
    """Which recipes train on what, and for how long."""

    root: str = ""
    """folder of Task04_Hippocampus in Decathlon's layout"""
    minutes: tuple[Positive, ...] = (10.0, 30.0, 60.0)
    """processor minutes of training"""
    systems: tuple[str, ...] = SYSTEMS
    """ours, monai, nnunet"""
    python: str = ""
    """Python of an environment with nnunetv2"""
    ours: tuple[str, ...] = ("recipe=strong", "trainer=cpu")
    """settings of ours on top of task=hippocampus"""
    patch: tuple[Count, Count, Count] = (32, 48, 32)
    """MONAI's crop, voxels; divisible by 16"""
    seed: Seed = 0
    """of the trainings"""
    out: str = ""
    """keep configurations, predictions and runs here; empty: a temporary folder"""

    def __post_init__(self) -> None:
        for name in self.systems:
            if name not in SYSTEMS:
                raise SslMedError(f"systems: '{name}' is unknown; choose of {', '.join(SYSTEMS)}")
        if not self.root:
            raise SslMedError("root is missing: give the folder of Task04_Hippocampus, root=DIR")
        if "nnunet" in self.systems and not (self.python and Path(self.python).is_file()):
            raise SslMedError(
                "systems holds nnunet: name the Python of an environment that has nnunetv2, python=VENV/bin/python, "
                "or choose systems=[ours,monai]"
            )


@dataclass(frozen=True)
class Cases:
    """Files of the split, image and label map of each case."""

    train: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]


def main(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Trains, tests and prints a Markdown table; returns its rows."""
    config = build(BenchBaselineConfig, [parse_overrides(overrides)], prefix="")
    cases = split(config)
    say(
        f"{hardware()}, torch {torch.__version__}, one thread; {len(cases.train)} training, {len(cases.test)} test cases"
    )
    rows = []
    with tempfile.TemporaryDirectory(prefix="ssl-med-baseline-") as scratch:
        folder = Path(config.out or scratch)
        for minutes in config.minutes:
            for name in config.systems:
                row = {"system": name, "asked": minutes, **run(name, minutes, config, cases, folder)}
                rows.append(row)
                if len(rows) == 1:
                    say("| recipe | processor minutes | steps | test Dice [95 %] | anterior | posterior |")
                    say("|---|---|---|---|---|---|")
                say(
                    f"| {name} | {row['minutes']:.1f} | {row['steps']} | {row['dice']:.4f} "
                    f"[{row['low']:.4f}, {row['high']:.4f}] | {row['anterior']:.4f} | {row['posterior']:.4f} |"
                )
    return rows


def split(config: BenchBaselineConfig) -> Cases:
    """Training and validation cases, and test cases, of the split that a fine-tuning takes."""
    data = MsdData(MsdConfig(name="msd", root=config.root, patch_size=config.patch), labelled=True, batch_size=1)
    data.setup("fit")
    files = {part: [(case.images[0], case.mask) for case in data.parts[part]] for part in ("train", "val", "test")}
    return Cases(tuple(files["train"] + files["val"]), tuple(files["test"]))


def run(name: str, minutes: float, config: BenchBaselineConfig, cases: Cases, folder: Path) -> dict[str, Any]:
    """Trains one recipe for so long and scores its predictions."""
    place = folder / f"{name}-{minutes:g}"
    if name == "ours":
        found, steps, spent = _ours(minutes, config, place)
    else:
        # nnU-Net's preprocessed cases serve all lengths
        work = folder / name if name == "nnunet" else place
        found, steps, spent = _other(name, minutes, config, cases, work)
    subjects = list(range(len(found)))
    interval = bootstrap(mean_of(found.mean(1)), subjects)
    anterior, posterior = found.mean(0).tolist()
    return {
        "minutes": spent / 60,
        "steps": steps,
        "dice": float(found.mean()),
        "low": interval.low,
        "high": interval.high,
        "anterior": anterior,
        "posterior": posterior,
    }


def _other(
    name: str, minutes: float, config: BenchBaselineConfig, cases: Cases, folder: Path
) -> tuple[np.ndarray, int, float]:
    folder.mkdir(parents=True, exist_ok=True)
    request = {
        "folder": str(folder),
        "train": cases.train,
        "test": [image for image, _ in cases.test],
        "labels": {"Anterior": 1, "Posterior": 2},
        "modality": "MRI",
        "patch": config.patch,
        "seconds": 60 * minutes,
        "seed": config.seed,
    }
    (folder / "request.json").write_text(json.dumps(request))
    python, script = (config.python, "nnunet") if name == "nnunet" else (sys.executable, "monai_tutorial")
    _started([python, str(_SCRIPTS / f"{script}.py"), str(folder / "request.json")], folder / "log.txt")
    answer = json.loads((folder / "answer.json").read_text())
    scores = [dice_of(folder / "predicted" / f"{k:04d}.nii.gz", Path(mask)) for k, (_, mask) in enumerate(cases.test)]
    return np.stack(scores), answer["steps"], answer["seconds"]


def dice_of(predicted: Path, truth: Path) -> np.ndarray:
    """(2,) Dice of anterior and posterior hippocampus of two label maps."""
    found, true = (torch.from_numpy(read_volume(str(path)).array).round().long() for path in (predicted, truth))
    regions = [torch.stack([labels == 1, labels == 2]) for labels in (found, true)]
    return dice_per_region(*regions).numpy()


def _ours(minutes: float, config: BenchBaselineConfig, place: Path) -> tuple[np.ndarray, int, float]:
    """Steps are chosen so that the whole run, with its start, validation and test, takes the processor time."""
    short = [_finetuned(config, place.with_name(f"{place.name}-{steps}"), steps)[1] for steps in _PROBE]
    each = max(1e-3, (short[1] - short[0]) / (_PROBE[1] - _PROBE[0]))
    steps = max(2, int((60 * minutes - short[0]) / each) + _PROBE[0]) // 2 * 2
    scores, seconds = _finetuned(config, place, steps)
    return scores, steps, seconds


def _finetuned(config: BenchBaselineConfig, place: Path, steps: int) -> tuple[np.ndarray, float]:
    """Test scores of a run of so many steps, an even number, and its processor seconds; half-way and last are validated."""
    command = [sys.executable, "-m", "experiments.cli", "finetune", "task=hippocampus", f"data.root={config.root}"]
    command += [f"out={place}", "resume=false", f"seed={config.seed}", "trainer.accelerator=cpu", "tracking.wandb=off"]
    command += ["trainer.progress=false", *config.ours, "trainer.max_epochs=-1", f"trainer.max_steps={steps}"]
    command += [f"trainer.val_every_steps={steps // 2}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _started(command, place.with_suffix(".log"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = read_cases(place)
    names = [key for key in rows[0] if key.startswith("dice/")]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return np.array([[float(row[name]) for name in names] for row in rows]), seconds


def _started(command: Sequence[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        last = (log.read_text().strip().splitlines() or ["nothing was said"])[-1]
        raise SslMedError(f"{' '.join(command[:4])} ... ended with {done.returncode}: {last} (all of it: {log})")
