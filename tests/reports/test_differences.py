import math

import numpy as np
import pytest
from report_samples import write_finetune

from ssl_med.evaluation import statistics as s
from ssl_med.evaluation.bootstrap import auc_of, bootstrap, mean_of
from ssl_med.reports import run_folder as records
from ssl_med.reports import writing
from ssl_med.reports.loose_runs import comparison_of_runs
from ssl_med.reports.page import report_runs
from ssl_med.reports.run_folder import find_runs
from ssl_med.reports.sections.results_differences import difference_notes

CASES = 12
BETTER = {"scratch": 0.0, "pcrl": 0.05, "moco": 0.01}


def dice(method, seed, case):
    rng = np.random.default_rng([case, 1])
    noise = np.random.default_rng([list(BETTER).index(method), seed, case])
    return float(np.clip(0.6 + rng.normal(0, 0.15) + BETTER[method] + noise.normal(0, 0.02), 0, 1))


def study(root, *, seeds, methods=tuple(BETTER), subjects=True):
    for method in methods:
        for seed in range(seeds):
            values = [dice(method, seed, case) for case in range(CASES)]
            folder = write_finetune(root, method, fraction=1.0, seed=seed, values=values)
            rows = [{"case": f"c{k}", "dice": value} for k, value in enumerate(values)]
            if subjects:
                rows = [{**row, "subject": k // 2} for k, row in enumerate(rows)]  # two scans a patient
            writing.write_cases(folder, rows)
    return root


def differences(root):
    """Row -> its difference to scratch, of runs of one column and one budget."""
    return {key[2]: difference for key, difference in comparison_of(root).differences.items()}


def comparison_of(root):
    comparison = comparison_of_runs(find_runs([root]))
    assert len(comparison.design.columns) == 1
    return comparison


def notes(root):
    comparison = comparison_of(root)
    return difference_notes(comparison, comparison.design.columns[0])


def test_differences_pair_seeds_and_patients(tmp_path):
    found = differences(study(tmp_path / "runs", seeds=7))
    assert sorted(found) == ["moco", "pcrl"]
    means = {m: np.array([[dice(m, seed, k) for k in range(CASES)] for seed in range(7)]) for m in BETTER}
    tests = {m: s.sign_flip(means[m].mean(1), means["scratch"].mean(1)) for m in found}
    expected = s.holm(tests)
    for method, difference in found.items():
        assert difference.outcome.p == pytest.approx(expected[method].p)
        assert difference.outcome.family == 2
        assert difference.outcome.effect == pytest.approx(means[method].mean() - means["scratch"].mean())
        order = sorted(range(CASES), key=lambda k: f"c{k}")
        apart = mean_of((means[method] - means["scratch"]).mean(0)[order])
        interval = bootstrap(apart, [str(float(k // 2)) for k in order], resamples=1000)
        assert (difference.interval.low, difference.interval.high) == pytest.approx((interval.low, interval.high))
        assert difference.interval.subjects == 6
    assert found["pcrl"].interval.low > 0.02
    assert "; p 0.031" in str(found["pcrl"])  # 2 / 2^7, twice


def test_few_seeds_have_no_p_and_the_report_says_why(tmp_path):
    root = study(tmp_path / "runs", seeds=5)
    found = differences(root)
    assert all(isinstance(x.outcome, s.Refusal) for x in found.values())
    assert all(str(x).endswith("; no p") for x in found.values())
    assert "No p: 5 pairs cannot give p below 0.0625, and alpha is 0.05." in notes(root)
    page = report_runs([root], tmp_path / "report").read_text()
    text = (tmp_path / "report" / "report.md").read_text()
    for place in (page, text):
        assert "5 pairs cannot give p below 0.0625" in place
        assert str(found["pcrl"]).partition(";")[0] in place
        assert "p 0." not in place
    assert "| minus scratch | 100 % |" in text


def test_six_seeds_support_one_comparison_and_not_two(tmp_path):
    (one,) = differences(study(tmp_path / "one", seeds=6, methods=("scratch", "pcrl"))).values()
    assert one.outcome.p == 0.03125
    two = differences(study(tmp_path / "two", seeds=6)).values()
    assert all("over 2 comparisons a corrected p cannot fall below 0.0625" in x.outcome.reason for x in two)


def test_each_column_of_loose_runs_is_a_family_of_its_own(tmp_path):
    """Nobody planned the other task, so its runs must not weaken what these say."""
    for task in ("lits", "brats"):
        for row in ("scratch", "pcrl"):
            for seed in range(6):
                values = [dice(row, seed, case) for case in range(CASES)]
                write_finetune(tmp_path / task, row, fraction=1.0, seed=seed, values=values, task=task, data=task)
    comparison = comparison_of_runs(find_runs([tmp_path]))
    assert [column.label for column in comparison.design.columns] == ["brats", "lits"]
    assert {x.outcome.p for x in comparison.differences.values()} == {0.03125}
    assert (comparison.family("lits"), comparison.family_text("lits")) == (1, "1 comparison of this column")


def test_why_there_is_no_interval(tmp_path):
    old = study(tmp_path / "old", seeds=2, subjects=False)
    assert differences(old)["moco"].interval is None
    assert "No interval: test_cases.csv of a run names no subjects." in notes(old)
    root = study(tmp_path / "other", seeds=2)
    other = next((root / "finetune").glob("pcrl*seed1"))
    writing.write_cases(other, records.read_cases(other)[:-1])
    found = differences(root)
    assert found["pcrl"].unpaired == "the runs were tested on different cases"
    assert found["moco"].interval is not None


def test_no_scratch_and_no_common_seed(tmp_path):
    assert differences(study(tmp_path / "a", seeds=2, methods=("pcrl", "moco"))) == {}
    root = tmp_path / "b"
    write_finetune(root, "scratch", fraction=1.0, seed=0, values=[0.5])
    write_finetune(root, "pcrl", fraction=1.0, seed=1, values=[0.6])
    assert differences(root) == {}
    report_runs([root], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Nothing was compared: no row has a seed in common with scratch." in text
    assert "Difference to" not in text


def test_an_auc_is_computed_anew_for_every_draw(tmp_path):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 40)
    runs = {"scratch": rng.normal(label, 1.5), "pcrl": rng.normal(label, 0.7)}
    for method, logit in runs.items():
        folder = write_finetune(
            tmp_path / "runs", method, fraction=1.0, seed=0, values=[0.5], metric="auc", metrics={"test/auc": 0.8}
        )
        p = 1 / (1 + np.exp(-logit))
        rows = [
            {"case": f"c{k:02}", "subject": k, "label": int(y), "score/no": 1 - x, "score/yes": x}
            for k, (y, x) in enumerate(zip(label, p, strict=True))
        ]
        writing.write_cases(folder, rows)
    (found,) = differences(tmp_path / "runs").values()
    auc = {method: auc_of(label, logit)(np.ones((1, 40)))[0] for method, logit in runs.items()}
    assert found.interval.estimate == pytest.approx(auc["pcrl"] - auc["scratch"])
    assert found.interval.low < found.interval.estimate < found.interval.high
    assert not math.isnan(found.interval.low)
