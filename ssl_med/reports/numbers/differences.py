"""A row against the baseline: differences, their intervals over patients, and p-values over seeds.

Two questions, two answers. Would other patients say the same? The interval draws the test subjects again, the same ones for
both rows, and averages the seeds that both rows have. Would other seeds? The test of the design takes runs of one seed as a
pair; p is corrected by Holm, and is not stated where so few seeds cannot give a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_med.evaluation.analysis import headline, scores
from ssl_med.evaluation.bootstrap import Interval, Statistic, mean_auc_of, mean_of, paired_bootstrap
from ssl_med.evaluation.metrics import MaskMetric, added_metrics
from ssl_med.evaluation.statistics import Outcome, Refusal, sign_flip
from ssl_med.reports.run_folder import Run
from ssl_med.reports.run_tables import Case
from ssl_med.spec import Target

TARGETS: dict[str, Target] = {"auc": "class", "auroc": "multilabel"}
CASE_METRICS = ("dice", "iou", "iou_50_95", "hd95_mm", "surface_dice")  # the test value is the mean over cases
RESAMPLES = 1000
Test = Callable[[Sequence[float], Sequence[float]], Outcome]


@dataclass(frozen=True)
class Difference:
    """A row minus the baseline at one label fraction, over the seeds that both have; no interval where `unpaired` says why."""

    row: str
    fraction: float
    outcome: Outcome
    interval: Interval | None
    unpaired: str = ""

    def __str__(self) -> str:
        text = f"{self.outcome.effect:+.3f}"
        if self.interval is not None and not self.interval.reason:
            text += f" [{self.interval.low:+.3f}, {self.interval.high:+.3f}]"
        if isinstance(self.outcome, Refusal):
            return f"{text}; no p"
        return f"{text}; p {self.outcome.p:.3f}" if self.outcome.p >= 0.001 else f"{text}; p < 0.001"


def compared(
    metric: str, row: str, fraction: float, own: Sequence[Run], base: Sequence[Run], test: Test = sign_flip
) -> Difference | None:
    """Runs of a row against those of the baseline over the seeds that both have; p not corrected; None without such seeds."""
    groups = by_seed(own), by_seed(base)
    seeds = sorted(groups[0].keys() & groups[1].keys())
    if not seeds:
        return None
    values = [[float(np.mean([run.value for run in runs[seed]])) for seed in seeds] for runs in groups]
    interval, unpaired = _interval(metric, *([run for seed in seeds for run in runs[seed]] for runs in groups))
    return Difference(row, fraction, test(*values), interval, unpaired)


def by_seed(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """Seed -> the runs that have it."""
    found: dict[int, list[Run]] = {}
    for run in runs:
        found.setdefault(run.seed, []).append(run)
    return found


def _interval(metric: str, own: Sequence[Run], base: Sequence[Run]) -> tuple[Interval | None, str]:
    first = {str(case["case"]): case for case in base[0].cases}
    if not first:
        return None, "a run has no test_cases.csv"
    if any("subject" not in case for case in first.values()):
        return None, "test_cases.csv of a run names no subjects"
    order = sorted(first)
    tables = [{str(case["case"]): case for case in run.cases} for run in (*own, *base)]
    if any(sorted(cases) != order for cases in tables):
        return None, "the runs were tested on different cases"
    names = [key.removeprefix("score/") for key in first[order[0]] if key.startswith("score/")]
    rows = [[cases[name] for name in order] for cases in tables]
    mine, other = (average(metric, names, part) for part in (rows[: len(own)], rows[len(own) :]))
    if mine is None or other is None:
        return None, f"{metric} cannot be computed from the test cases"
    subjects = [_subject(first[name]) for name in order]
    return paired_bootstrap({"own": mine, "base": other}, "base", subjects, resamples=RESAMPLES)["own"], ""


def average(metric: str, names: Sequence[str], runs: Sequence[Sequence[Case]]) -> Statistic | None:
    """Mean of a test metric over runs that were tested on the same cases; None where cases do not tell it."""
    name = metric.partition("/")[0]
    if name in CASE_METRICS or isinstance(added_metrics().get(name), MaskMetric):
        if any(metric not in case for rows in runs for case in rows):
            return None
        return mean_of(np.mean([[float(case[metric]) for case in rows] for rows in runs], axis=0))
    if metric == "accuracy" and names and all("label" in case for rows in runs for case in rows):
        answers = [scores("class", names, rows) for rows in runs]
        return mean_of(np.mean([truth.argmax(1) == score.argmax(1) for truth, score in answers], axis=0))
    target = TARGETS.get(metric)
    if target is None:
        return None
    if target == "class" and len(names) == 2:
        found = [scores(target, names, rows) for rows in runs]
        return mean_auc_of(found[0][0][:, 1], np.stack([score[:, 1] for _, score in found]))
    each = [headline(target, names, rows) for rows in runs]

    def statistic(weights: NDArray[Any]) -> NDArray[Any]:
        mean: NDArray[Any] = np.mean([one(weights) for one in each], axis=0)
        return mean

    return statistic


def _subject(case: Case) -> str:
    return str(case["subject"])
