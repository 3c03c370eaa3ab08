"""Numbers of a comparison against computations of their own."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparison_samples import CASES, FRACTIONS, GAIN, STEPS, early, sample_comparison, value
from scipy import stats

from ssl_med.evaluation import bootstrap
from ssl_med.evaluation import statistics as s
from ssl_med.evaluation.metrics import METRICS
from ssl_med.reports.numbers.cells import Cell, interval
from ssl_med.reports.numbers.comparison import TESTS
from ssl_med.reports.numbers.costs import costs, parameters, watts
from ssl_med.reports.numbers.published import published
from ssl_med.reports.numbers.ranking import rank, ranking
from ssl_med.reports.numbers.reached import annotation_saving, convergence, crossing, learning_curve
from ssl_med.reports.numbers.wording import mark_of
from ssl_med.reports.sections.results import results, results_caption
from ssl_med.reports.sections.short import in_short

SEEDS = 6


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return sample_comparison(tmp_path_factory.mktemp("comparison"))


def runs(row, fraction):
    return np.array([value(row, fraction, seed) for seed in range(SEEDS)])


def by_hand(family):
    """Holm as in the paper: sorted, times what is left, never falling."""
    order = sorted(family, key=family.get)
    found, least = {}, 0.0
    for k, key in enumerate(order):
        least = max(least, min(1.0, family[key] * (len(order) - k)))
        found[key] = least
    return found


def test_cells_and_differences(comparison):
    family = {}
    for fraction in FRACTIONS:
        base = runs("scratch", fraction)
        for row in ("mae", "pcrl", "moco"):
            cell = comparison.cell("dice", fraction, row)
            assert (cell.n, cell.mean) == (SEEDS, pytest.approx(runs(row, fraction).mean()))
            family[row, fraction] = stats.ttest_rel(runs(row, fraction), base).pvalue
            for step in STEPS:
                own, other = ([early(r, fraction, k, step) for k in range(SEEDS)] for r in (row, "scratch"))
                family[row, fraction, step] = stats.ttest_rel(own, other).pvalue
    assert comparison.family() == len(family) == 3 * 3 * 3
    expected = by_hand(family)
    for (_, fraction, row), difference in comparison.differences.items():
        assert difference.outcome.p == pytest.approx(expected[row, fraction])
        assert difference.outcome.effect == pytest.approx((runs(row, fraction) - runs("scratch", fraction)).mean())
        assert difference.outcome.family == 27
    for (_, fraction, row, step), outcome in comparison.early_differences.items():
        assert outcome.p == pytest.approx(expected[row, fraction, step])


def test_the_interval_draws_patients_of_both_rows_together(comparison):
    apart = np.mean(
        [[value("mae", 0.2, k, c) - value("scratch", 0.2, k, c) for c in range(CASES)] for k in range(SEEDS)], 0
    )
    alone = bootstrap.bootstrap(bootstrap.mean_of(apart), [f"s{k:02}" for k in range(CASES)], resamples=1000)
    found = comparison.differences["dice", 0.2, "mae"].interval
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
    assert found.subjects == CASES


def test_the_mean_auc_of_runs_equals_the_mean_of_their_aucs():
    rng = np.random.default_rng(3)
    truth = rng.random(60) < 0.3
    scores = np.round(rng.normal(truth, 1, (4, 60)), 1)  # with ties
    weights = rng.multinomial(60, np.full(60, 1 / 60), 50).astype(float)
    weights[0] = ~truth  # one class only
    each = np.mean([bootstrap.auc_of(truth, score)(weights) for score in scores], axis=0)
    found = bootstrap.mean_auc_of(truth, scores)(weights)
    assert math.isnan(found[0])
    np.testing.assert_allclose(found, each)


def test_every_declared_test_is_applied(tmp_path):
    a, b = runs("mae", 1.0), runs("scratch", 1.0)
    expected = {
        "paired_t": stats.ttest_rel(a, b).pvalue,
        "welch_t": stats.ttest_ind(a, b, equal_var=False).pvalue,
        "sign_flip": stats.permutation_test((a - b,), np.mean, permutation_type="samples").pvalue,
        "wilcoxon": stats.wilcoxon(a, b).pvalue,
    }
    assert set(expected) == set(TESTS)
    for test, p in expected.items():
        found = sample_comparison(
            tmp_path / test, rows=("scratch", "mae"), fractions=(1.0,), tuned=False, test=test, early_steps=()
        )
        assert found.family() == 1
        assert found.differences["dice", 1.0, "mae"].outcome.p == pytest.approx(p), test


def test_the_best_row_is_named_only_where_it_differs_from_all_others(comparison, tmp_path):
    assert comparison.best("dice", 0.05) == "mae"
    close = sample_comparison(tmp_path / "close", rows=("scratch", "pcrl"), fractions=(1.0,), test="sign_flip", seeds=5)
    assert close.best("dice", 1.0) == ""  # five sign flips tell nothing apart
    gaps = sample_comparison(tmp_path / "gaps", fractions=(0.05,), missing=[("moco", 0.05, 3, "not run yet")])
    assert gaps.best("dice", 0.05) == ""


def test_where_lower_is_better_every_choice_turns_round(comparison, tmp_path):
    """Distances that mirror Dice: the same rows are best, better, first and saved by, and intervals are mirrored too."""
    mirror = sample_comparison(tmp_path, metric="hd95_mm")
    assert mirror.metric("dice") == "hd95_mm"
    assert mirror.cell("dice", 1.0, "mae").values == pytest.approx([10 * (1 - x) for x in runs("mae", 1.0)])
    assert mirror.best("dice", 0.05) == comparison.best("dice", 0.05) == "mae"
    marks = []
    for one, metric in ((comparison, "dice"), (mirror, "hd95_mm")):
        found = {key: mark_of(x.outcome, metric) for key, x in one.differences.items()}
        early = {key: mark_of(x, metric) for key, x in one.early_differences.items()}
        marks.append((found, early, [re.sub(r"[-+][\d.]+", "", line) for line in in_short(one)]))
    assert marks[0] == marks[1]
    assert {"better", "worse"} <= {*marks[0][0].values()}
    assert ranking(mirror)[0] == ranking(comparison)[0]
    ours, theirs = (annotation_saving(one, "dice")[1] for one in (comparison, mirror))
    assert {row: x.value for row, x in theirs.items()} == pytest.approx(
        {row: x.value for row, x in ours.items()}, nan_ok=True
    )
    assert {row: x.reached for row, x in theirs.items()} == {row: x.reached for row, x in ours.items()}
    target, found = convergence(mirror, "dice", 1.0)
    assert target == pytest.approx(10 * (1 - runs("scratch", 1.0).mean()) / 0.95)
    assert found["mae"].value <= found["scratch"].value == 60
    straight, turned = (one.differences["dice", 1.0, "mae"].interval for one in (comparison, mirror))
    assert (turned.low, turned.high) == pytest.approx((-10 * straight.high, -10 * straight.low))
    assert mirror.collapsed("dice", 1.0, "mae") == 0


def test_a_missing_cell_stays_in_the_family(tmp_path):
    comparison = sample_comparison(
        tmp_path, missing=[("moco", 0.05, seed, "failed: loss is nan") for seed in range(SEEDS)]
    )
    assert comparison.family() == 27
    refused = comparison.differences["dice", 0.05, "moco"].outcome
    assert isinstance(refused, s.Refusal)
    assert math.isnan(refused.effect)
    assert {entry.why for entry in comparison.missing} == {"failed: loss is nan"}
    part = sample_comparison(
        tmp_path / "part", missing=[("mae", 0.2, 0, "not run yet"), ("mae", 0.2, 4, "not run yet")]
    )
    kept = [1, 2, 3, 5]
    found = part.differences["dice", 0.2, "mae"].outcome
    assert (found.n, found.effect) == (4, pytest.approx((runs("mae", 0.2) - runs("scratch", 0.2))[kept].mean()))


def test_learning_curves_end_with_the_final_value(comparison):
    curve = learning_curve(comparison, "dice", 0.2, "mae")
    assert list(curve) == [*STEPS, 60]
    assert curve[20].values == pytest.approx([early("mae", 0.2, k, 20) for k in range(SEEDS)])
    assert curve[60].values == pytest.approx(runs("mae", 0.2))


def test_intervals_over_seeds_are_students():
    x = [0.71, 0.74, 0.69, 0.75]
    assert interval(Cell(tuple(x))) == pytest.approx(stats.t.interval(0.95, 3, np.mean(x), stats.sem(x)))
    assert all(map(math.isnan, interval(Cell((0.1, 0.2)))))


def test_annotation_saving_is_interpolated_in_the_logarithm(comparison):
    assert crossing((0.01, 0.1, 1.0), (0.5, 0.6, 0.8), 0.7, METRICS["dice"]) == (pytest.approx(10**-0.5), False)
    assert crossing((0.01, 1.0), (0.5, 0.6), 0.4, METRICS["dice"]) == (0.01, True)
    assert math.isnan(crossing((0.01, 1.0), (0.5, 0.6), 0.61, METRICS["dice"])[0])
    target, found = annotation_saving(comparison, "dice")
    assert target == pytest.approx(runs("scratch", 1.0).mean())
    below, above = runs("mae", 0.2).mean(), runs("mae", 1.0).mean()
    share = (target - below) / (above - below)
    assert found["mae"].value == pytest.approx(0.2 * 5**share)
    assert found["mae"].reached == found["mae"].of == SEEDS
    assert math.isnan(found["moco"].value)


def test_convergence_is_the_first_step_near_the_end_of_the_baseline(comparison):
    target, found = convergence(comparison, "dice", 1.0)
    assert target == pytest.approx(0.95 * runs("scratch", 1.0).mean())
    at_40 = np.mean([early("mae", 1.0, k, 40) for k in range(SEEDS)])
    assert at_40 >= target
    assert np.mean([early("scratch", 1.0, k, 40) for k in range(SEEDS)]) < target
    assert (found["mae"].value, found["scratch"].value) == (40, 60)


def test_ranks_against_scipy_and_the_published_table():
    rng = np.random.default_rng(0)
    values = {name: rng.normal(k / 3, 1, 9) for k, name in enumerate("abcd")}
    found = rank(values)
    assert found.p == pytest.approx(stats.friedmanchisquare(*values.values()).pvalue)
    assert found.critical == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 9)), abs=2e-3)  # Demsar 2006, table 5 (a)
    means = stats.rankdata(-np.array(list(values.values())), axis=0).mean(1)
    assert dict(found.ranks) == pytest.approx(dict(zip("abcd", means, strict=True)))
    assert list(found.ranks.values()) == sorted(found.ranks.values())
    values["a"][3] = math.nan
    assert rank(values).blocks == 8


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "no row has a result"),
        ({"a": [math.nan], "b": [0.1]}, "no data set and budget"),
        ({"a": [1.0] * 6, "b": [0.5] * 6}, "three rows or more; there are 2"),
        ({"a": [1.0] * 4, "b": [0.5] * 4, "c": [0.1] * 4}, "4 data sets x budgets; 5 are needed"),
        ({"a": [1.0] * 6, "b": [1.0] * 6, "c": [1.0] * 6}, "all rows are equal"),
    ],
)
def test_when_ranks_have_no_test(values, reason):
    found = rank(values)
    assert reason in found.reason
    assert math.isnan(found.p)


def test_rows_without_any_result_are_left_out_of_ranks(tmp_path):
    gone = [("moco", x, seed, "not run yet") for x in FRACTIONS for seed in range(2)]
    found, absent = ranking(sample_comparison(tmp_path, seeds=2, missing=gone))
    assert absent == ["moco"]
    assert found.blocks == len(FRACTIONS)


def test_costs(comparison):
    cost = costs(comparison)["mae"]
    finals = [20.0 + seed for seed in range(SEEDS) for _ in FRACTIONS]
    assert cost.pretraining == 30.0
    assert cost.finals == {"dice": pytest.approx(np.mean(finals))}
    total = 30.0 + sum(finals) + 2 * 1020.0  # two trials with seed 1000
    assert cost.hours == pytest.approx(total / 3600)
    assert cost.kwh == pytest.approx(total * 2 * 10 / 3.6e6)  # two threads of 10 W
    assert math.isnan(costs(comparison)["scratch"].pretraining)


def test_power_and_size(comparison, tmp_path):
    run = comparison.entries[0].run
    assert watts(type(run)(run.folder, {"hardware": "4 x NVIDIA A100"})) == 1600
    tensors = {
        name: {"dtype": "F32", "shape": shape} for name, shape in (("encoder.a", [2, 3]), ("x.running_mean", [5]))
    }
    header = json.dumps(tensors | {"__metadata__": {"a": "b"}}).encode()
    (tmp_path / "backbone.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert parameters(tmp_path) == 6
    assert parameters(tmp_path / "none") == 0


def test_published_numbers_find_their_cells(tmp_path):
    numbers = {"mae": {"dice": 85.1, "dice@0.2": 0.7, "gone": 1.0}}
    comparison = sample_comparison(tmp_path, rows=("scratch", "mae"), seeds=2, published=numbers)
    found = {x.fraction: x for x in published(comparison)}
    assert set(found) == {1.0, 0.2}
    assert (found[1.0].published, found[1.0].scale, found[0.2].scale) == (85.1, 100, 1)
    assert found[1.0].ours.mean == pytest.approx(runs("mae", 1.0)[:2].mean())


def test_collapsed_runs_are_counted(comparison, tmp_path):
    assert comparison.collapsed("dice", 0.05, "mae") == 0
    bound = float(np.median(runs("mae", 0.05)))
    harsh = sample_comparison(tmp_path, rows=("scratch", "mae"), collapsed_below=bound)
    assert harsh.collapsed("dice", 0.05, "mae") == 3


def test_no_two_rows_look_alike(comparison):
    looks = {(look.color, look.marker) for look in comparison.styles.values()}
    assert len(looks) == len(GAIN)


def probed(comparison, row, *, alike, fraction=1.0):
    """The comparison with a cell of probes from two pretrainings; `alike`: seeds from the same one have the same score."""
    first = {
        entry.seed: entry.run for entry in comparison.of("final") if (entry.row, entry.fraction) == (row, fraction)
    }
    entries = []
    for entry in comparison.entries:
        if entry.role == "final" and (entry.row, entry.fraction) == (row, fraction):
            run = first[entry.seed % 2] if alike else entry.run
            run = replace(run, summary={**run.summary, "kind": "probe", "seed": entry.seed})
            entry = replace(entry, run=run, starts=Path(f"pretraining-{entry.seed % 2}"))
        entries.append(entry)
    return replace(comparison, entries=tuple(entries))


def test_probes_that_cannot_differ_count_once(comparison):
    """All labels, one pretraining: another seed repeats the number, and n must not grow by it."""
    twice = probed(comparison, "mae", alike=True)
    cell = twice.cell("dice", 1.0, "mae")
    assert cell.values == (comparison.cell("dice", 1.0, "mae").values[:2])
    assert twice.repeated("dice", 1.0, "mae") == 4
    assert twice.repeated("dice", 1.0, "pcrl") == twice.repeated("dice", 0.2, "mae") == 0
    outcome = twice.differences["dice", 1.0, "mae"].outcome
    assert outcome.n == 2, "of the seeds that both rows have"
    expected = runs("mae", 1.0)[:2] - runs("scratch", 1.0)[:2]
    assert outcome.effect == pytest.approx(expected.mean(), abs=1e-6)
    assert twice.best("dice", 1.0) == ""
    told = [str(field) for line in results(twice, twice.design.columns[0]).rows for field in line]
    assert any("n 2 · 4 repeat" in text for text in told)
    assert "count once" in results_caption(twice, twice.design.columns[0])
    assert "count once" not in results_caption(comparison, comparison.design.columns[0])


def test_probes_that_draw_anew_all_count(comparison):
    """Few-shot episodes, a share of the labels: scores differ or labels do."""
    assert probed(comparison, "mae", alike=False).cell("dice", 1.0, "mae").n == SEEDS
    assert probed(comparison, "mae", alike=True, fraction=0.2).cell("dice", 0.2, "mae").n == SEEDS
