"""Pretrain on unlabelled radiographs, fine-tune on few labels from it and from scratch, and compare.

    python examples/pretrain_finetune.py [DATA [OUT]]

DATA is a folder of ChestX-ray14; without it, synthetic radiographs in the same layout are written first.
"""

import sys
from pathlib import Path

import ssl_med
from datamodules.phantoms import chest14

# what makes the example quick; leave all of it out and the paper's recipe runs
QUICK = {
    "trainer": {"name": "cpu", "max_steps": 10, "batch_size": 4, "progress": False},
    "backbone": {"name": "unet", "channels": [8, 16, 32]},
    "data.patch_size": [32, 32],
    "data.image_size": 40,
    "tracking.wandb": "off",
}


def main(data: str = "", out: str = "runs/example") -> None:
    """Runs all steps; everything is found below `out`."""
    root = data or chest14.generate(Path(out) / "chest14", subjects=20, seed=0)
    settings = {"root": root, **QUICK}

    pretrained = ssl_med.pretrain("simclr", "chest14", out=f"{out}/pretrained", **settings)

    for name, init in {"pretrained": pretrained, "scratch": "scratch"}.items():
        run = ssl_med.finetune("chest14", init=init, out=f"{out}/from-{name}", labels={"fraction": 0.5}, **settings)
        print(f"from {name}: test AUROC {run.metrics['test/auroc']:.3f}")

    report = ssl_med.report(out, out=f"{out}/report")
    print(f"report: {report.folder / 'report.html'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
