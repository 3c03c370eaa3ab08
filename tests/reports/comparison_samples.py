"""Planned comparisons with known numbers, written as run folders."""

import numpy as np
from report_samples import write_finetune, write_pretrain

from ssl_med.reports import writing
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.design import Column, Design, Entry
from ssl_med.reports.run_folder import Run, read_run

CASES = 10
GAIN = {"scratch": 0.0, "mae": 0.06, "pcrl": 0.01, "moco": -0.02}
FRACTIONS = (0.05, 0.2, 1.0)
STEPS = (20, 40)
LR = (0.001, 0.003)


def value(row, fraction, seed, case=None):
    """Dice of one run (mean over cases) or of one of its cases; scratch rises from 0.5 to 0.8 with labels."""
    if case is None:
        return float(np.mean([value(row, fraction, seed, k) for k in range(CASES)]))
    rng = np.random.default_rng([case, 5])
    noise = np.random.default_rng([list(GAIN).index(row), seed, case, round(1000 * fraction)])
    level = 0.8 + 0.1 * np.log10(fraction) * 2.3 + GAIN[row] * (1.6 - fraction)
    return float(np.clip(level + rng.normal(0, 0.08) + noise.normal(0, 0.02), 0, 1))


def sample_comparison(
    root,
    *,
    rows=tuple(GAIN),
    fractions=FRACTIONS,
    seeds=6,
    columns=("dice",),
    test="paired_t",
    missing=(),
    tuned=True,
    early_steps=STEPS,
    series="",
    metric="",
    **declared,
):
    """Runs of a comparison and the comparison.

    Args:
        missing: (row, fraction, seed, why) of final runs that are not there.
    """
    missing = {(row, fraction, seed): why for row, fraction, seed, why in missing}
    entries, pretrained = [], {}
    for row in rows:
        if row != "scratch":
            pretrained[row] = write_pretrain(root, row)
            entries.append(Entry("pretrain", row, "", 1.0, 0, read_run(pretrained[row])))
    for column in columns:
        for row in rows if tuned else ():
            for lr in LR:
                folder = write_finetune(
                    root / "tune" / column / f"{lr:g}", row, fraction=0.2, seed=1000, values=[value(row, 0.2, 99) - lr]
                )
                entries.append(Entry("tune", row, column, 0.2, 1000, read_run(folder), choice=(("optim.lr", lr),)))
        for seed in range(seeds):
            for fraction in fractions:
                for row in rows:
                    why = missing.get((row, fraction, seed), "")
                    run = Run(root / "none")
                    if not why:
                        run = read_run(_final(root / column, row, fraction, seed, early_steps), metric=metric)
                    choice = (("optim.lr", LR[0]),) if tuned else ()
                    entries.append(Entry("final", row, column, fraction, seed, run, why, choice, pretrained.get(row)))
    known = {
        "name": "sample", "title": "Liver from few labels", "baseline": rows[0], "protocol": "One network for all.",
        "collapsed_below": 0.3, "tune_fraction": 0.2,
    }  # fmt: skip
    known |= declared
    grid = {"optim.lr": list(LR)} if tuned else {}
    return Comparison(
        Design(
            rows=tuple(rows),
            columns=tuple(
                Column(c, "lits", "finetune", tuple(fractions), grid, series=series, metric=metric) for c in columns
            ),
            test=test,
            seeds=tuple(range(seeds)),
            **known,
        ),
        tuple(entries),
    )


def _final(root, row, fraction, seed, steps):
    values = [value(row, fraction, seed, k) for k in range(CASES)]
    metrics = {"test/dice": float(np.mean(values)), "test/hd95_mm": mirrored(np.mean(values))}
    folder = write_finetune(root, row, fraction=fraction, seed=seed, values=values, metrics=metrics)
    cases = [
        {"case": f"c{k:02}", "subject": f"s{k:02}", "dice": v, "hd95_mm": mirrored(v)} for k, v in enumerate(values)
    ]
    writing.write_cases(folder, cases)
    for step in steps:
        dice = early(row, fraction, seed, step)
        curve = {"curve/dice": dice, "curve/hd95_mm": mirrored(dice)}
        writing.append_metrics(folder, step - 1, {"curve/steps": step, **curve})
    return folder


def mirrored(dice):
    """A distance in mm that orders cases, runs and rows as Dice does."""
    return 10 * (1 - float(dice))


def early(row, fraction, seed, step):
    """Dice after an early step."""
    return value(row, fraction, seed) * (1 - np.exp(-step / (15 if row == "mae" else 25)))
