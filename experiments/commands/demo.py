"""`make demo`: the suite's main job on synthetic scans, in minutes on two cores, with nothing to download.

Phantom abdomens -> pretraining by PCRL and Models Genesis -> liver segmentation from both and from scratch, at two label
fractions and two seeds -> report. The numbers show that the machinery works; they are no statement about the methods.
"""

from __future__ import annotations

import sys
import time
from itertools import product
from pathlib import Path

from datamodules.phantoms.lits import generate
from experiments.commands.finetune import finetune
from experiments.commands.pretrain import pretrain
from experiments.commands.report import report
from experiments.run.environment import say

METHODS = ("pcrl", "models_genesis")
FRACTIONS = (0.15, 1.0)
SEEDS = (0, 1)
SUBJECTS = 14
SIZE = (64, 64, 48)  # voxels of about 2.7 mm: coarse, but seconds instead of minutes
PRETRAIN_STEPS = 100
FINETUNE_STEPS = 60


def main(root: Path = Path("runs/demo")) -> Path:
    """Runs or continues the demo below `root`; returns the report page."""
    start = time.monotonic()
    data = root / "phantoms"
    generate(data, subjects=SUBJECTS, seed=0, size=SIZE)
    shared = [
        f"data.root={data}",
        "trainer=cpu",
        "data.crops_per_volume=16",
        "data.intensity_low=-200",
        "data.intensity_high=250",
    ]
    inits = {"scratch": "scratch"}
    for method in METHODS:
        overrides = [
            f"method={method}",
            "data=lits",
            *shared,
            f"trainer.max_steps={PRETRAIN_STEPS}",
            *_PRETRAIN,
            *_OF_METHOD.get(method, ()),
        ]
        inits[method] = str(pretrain([*overrides, f"out={root / 'pretrain' / method}"]))
    for (name, init), fraction, seed in product(inits.items(), FRACTIONS, SEEDS):
        out = root / "finetune" / f"{name}-{fraction:g}-seed{seed}"
        overrides = ["task=lits", f"init={init}", *shared, f"labels.fraction={fraction}", f"seed={seed}", f"out={out}"]
        finetune([*overrides, *_FINETUNE])
    page = report([str(root / "pretrain"), str(root / "finetune"), f"out={root / 'report'}"])
    say(f"demo finished in {time.monotonic() - start:.0f} s; open {page}")
    return page


_PRETRAIN = ("trainer.val_every_steps=50", "trainer.batch_size=4")
_OF_METHOD = {"pcrl": ("method.queue=32",)}  # of batches so small a hundred fill it three times over
_FINETUNE = (
    f"trainer.max_steps={FINETUNE_STEPS}",
    "trainer.batch_size=4",
    "trainer.val_every_steps=20",
    "optim.lr=0.003",
    "task.overlap=0.25",
    "task.window_batch=16",
)


if __name__ == "__main__":
    main()
    sys.exit(0)
