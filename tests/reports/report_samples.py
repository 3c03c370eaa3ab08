"""Run folders as the suite writes them, with known numbers, for the report to read."""

import math

import numpy as np

from ssl_med.reports import writing
from ssl_med.reports.figures.pictures import save_overlay

SPEC = {"name": "lits", "patch_size": [32, 32, 16], "spacing_mm": [1.5, 1.5, 2.0]}
TRAINER = {"max_steps": 60, "batch_size": 4, "val_every_steps": 20, "progress": True}
COMMON = {
    "status": "done",
    "data": "lits",
    "backbone": {"name": "unet", "channels": [8, 16, 32, 64]},
    "hardware": "x86_64 CPU, 2 threads",
    "versions": {"ssl-med": "0.1.0", "torch": "2.13.0"},
    "git": "0123456789ab",
}


def write_pretrain(root, method, *, steps=120, **changes):
    folder = root / "pretrain" / method
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(method))
    for step in range(5, steps + 1, 5):
        loss = 1.5 * math.exp(-step / 50) + 0.3
        writing.append_metrics(folder, step, {"seconds": step / 4, "train/loss": loss + rng.normal(0, 0.05)})
        if step % 20 == 0:
            writing.append_metrics(folder, step, {"seconds": step / 4, "val/loss": loss + 0.05})
    summary = {
        "kind": "pretrain",
        "name": folder.name,
        "hash": "aaaa",
        "method": method,
        "seed": 0,
        "steps": steps,
    }
    summary |= {"seconds": steps / 4, "metrics": {"val/loss": 0.4}, "notes": []}
    config = {
        "data": {"name": "lits", "patch_size": [32, 32, 16]},
        "trainer": {**TRAINER, "max_steps": steps},
    }
    writing.write_summary(folder, {**COMMON, **summary, "config": config, **changes})
    return folder


def write_finetune(root, method, *, fraction, seed, values, config=None, card=None, pictures=False, **changes):
    folder = root / "finetune" / f"{method}-{fraction:g}-seed{seed}"
    folder.mkdir(parents=True)
    for step in range(20, 61, 20):
        writing.append_metrics(folder, step, {"train/loss": 1 - step / 100, "seconds": step / 3})
        values_at = {"val/loss": 0.9 - step / 100, "val/dice": np.mean(values) * step / 60}
        writing.append_metrics(folder, step, values_at)
    rows = [{"case": f"{i + 11}", "dice": value, "dice/liver": value} for i, value in enumerate(values)]
    writing.write_cases(folder, rows)
    if method != "scratch":
        card = {"method": method, "spec": SPEC, "steps": 120, "seed": 0, "method_config": {"queue": 1024}} | (
            card or {}
        )
    summary = {
        "kind": "finetune",
        "name": folder.name,
        "hash": "bbbb",
        "method": method,
        "task": "lits",
        "seed": seed,
        "init": {"kind": "run" if card else "scratch", "method": method if card else None, "card": card},
        "leakage": {"status": "none"} if card else None,
        "labels": {"fraction": fraction, "subjects": math.ceil(10 * fraction), "of": 10},
        "steps": 60,
        "seconds": 20.0 + seed,
        "metric": "dice",
        "metrics": {"test/dice": float(np.mean(values)), "test/dice/liver": float(np.mean(values))},
        "n_test": len(values),
        "weights": "best val/loss, step 60",
        "conventions": {"dice": "both empty -> 1"},
        "notes": ["intensity differs"] if card else [],
    }
    settings = {
        "data": {"name": "lits", "split_seed": 0},
        "trainer": TRAINER,
        "optim": {"lr": 0.003},
        "seed": seed,
    }
    config = {**settings, **(config or {})}
    writing.write_summary(folder, {**COMMON, **summary, "config": config, **changes})
    if pictures:
        for case, value in zip(rows, values, strict=True):
            volume = blob_volume(shift=(1 - value) * 12, seed=int(case["case"]))
            save_overlay(
                folder / "figures" / f"{case['case']}.png",
                case=case["case"],
                class_names=("liver",),
                **volume,
            )
    return folder


def blob_volume(*, shift, seed=0, size=(72, 64, 40)):
    """An ellipsoid organ in a noisy body, and a prediction that is off by `shift` voxels along x."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    body = (x / 0.9) ** 2 + (y / 0.75) ** 2 < 1
    ball = ((x + 0.35) / 0.35) ** 2 + ((y + 0.1) / 0.4) ** 2 + (z / 0.6) ** 2
    organ = ball < 1 + 0.1 * np.sin(9 * y + seed)
    spine = (x / 0.13) ** 2 + ((y - 0.5) / 0.15) ** 2 < 1
    image = 0.05 + 0.4 * body + 0.15 * organ + 0.45 * spine + rng.normal(0, 0.03, size) * body
    prediction = np.roll(organ, round(shift), axis=0)
    return {"image": image[None].astype(np.float32), "truth": organ[None], "prediction": prediction[None]}


def write_runs(root, *, pictures=False):
    """Two pretrainings, three methods x two fractions x two seeds with known means, one killed run."""
    base = {("scratch", 0.2): 0.60, ("pcrl", 0.2): 0.75, ("models_genesis", 0.2): 0.70}
    base |= {("scratch", 1.0): 0.85, ("pcrl", 1.0): 0.90, ("models_genesis", 1.0): 0.88}
    for method in ("pcrl", "models_genesis"):
        write_pretrain(root, method)
    for (method, fraction), mean in base.items():
        for seed in (0, 1):
            centre = mean + 0.02 * (seed - 0.5)
            values = [centre - 0.04, centre, centre + 0.04]
            drawn = pictures and seed == 0
            write_finetune(root, method, fraction=fraction, seed=seed, values=values, pictures=drawn)
    killed = root / "finetune" / "killed"
    killed.mkdir()
    writing.append_metrics(killed, 7, {"train/loss": 1.0})
    return root
