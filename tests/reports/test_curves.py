import numpy as np
import pytest
from report_samples import write_finetune

from ssl_med.reports import style
from ssl_med.reports.figures import curves
from ssl_med.reports.figures.traces import budget_traces, traces
from ssl_med.reports.loose_runs import comparison_of_runs
from ssl_med.reports.run_folder import find_runs, read_run
from ssl_med.reports.writing import append_metrics


def test_styles_are_fixed_and_apart():
    known = [style.style(name) for name in ("pcrl", "models_genesis", "context_restoration", "moco", "simclr")]
    assert len({look.color for look in known}) == len({look.marker for look in known}) == 5
    assert known[0].color == "#0072b2"
    assert style.style("scratch").color not in {look.color for look in known}
    assert style.style("scratch").line != "-"
    variants = [style.style("pcrl", variant=k) for k in range(3)]
    assert {look.color for look in variants} == {known[0].color}
    assert len({str(look.line) for look in variants}) == 3
    assert style.style("some_new_method") == style.style("some_new_method")


def drawn(comparison, column="lits"):
    return traces(budget_traces(comparison, column), title="", below="", shares=True).axes[0]


def test_label_budgets_are_drawn_with_means_intervals_and_seeds(tmp_path):
    rows = {"scratch": 0.5, "pcrl": 0.7}
    for row, mean in rows.items():
        for fraction in (0.2, 1.0):
            for seed in range(3):
                value = mean + 0.1 * fraction + 0.02 * (seed - 1)
                write_finetune(tmp_path, row, fraction=fraction, seed=seed, values=[value])
    comparison = comparison_of_runs(find_runs([tmp_path]))
    axes = drawn(comparison)
    means = {container.get_label(): container for container in axes.containers}
    assert list(means) == ["scratch", "pcrl"]
    line, _, (bars,) = means["pcrl"].lines
    assert line.get_ydata() == pytest.approx([0.72, 0.80])
    assert line.get_xdata() == pytest.approx([0.2, 1.0], rel=0.05)
    assert line.get_color() == style.style("pcrl").color
    half = 4.302653 * 0.02 / 3**0.5  # Student, two degrees of freedom
    assert bars.get_segments()[0][:, 1] == pytest.approx([0.72 - half, 0.72 + half])
    points = [tuple(line.get_ydata()) for line in axes.lines if line.get_marker() == "."]
    assert len(points) == 4
    assert points[2] == pytest.approx((0.70, 0.72, 0.74))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20 %", "100 %"]
    assert axes.get_xscale() == "log"


def test_one_budget_and_one_seed_are_a_point(tmp_path):
    write_finetune(tmp_path, "scratch", fraction=1.0, seed=0, values=[0.5])
    axes = drawn(comparison_of_runs(find_runs([tmp_path])))
    assert axes.containers[0].lines[0].get_ydata() == pytest.approx([0.5])


def test_loss_and_validation_curves(run_folders):
    runs = find_runs([run_folders])
    figures = curves.loss_curves([run for run in runs if run.kind == "pretrain"])
    assert [f.axes[0].get_title(loc="left") for f in figures] == [
        "Pretraining loss: models_genesis",
        "Pretraining loss: pcrl",
    ]
    lines = {line.get_label(): line for line in figures[0].axes[0].lines}
    assert len(lines["train"].get_xdata()) == 24
    assert list(lines["validation"].get_xdata()) == [20, 40, 60, 80, 100, 120]
    comparison = comparison_of_runs(runs)
    figures = curves.validation_curves(comparison.column_runs["lits"], comparison.styles)
    assert len(figures) == 2
    lines = {line.get_label(): line for line in figures[0].axes[0].lines}
    assert lines["pcrl"].get_ydata() == pytest.approx([0.25, 0.5, 0.75])


def test_nothing_logged_draws_nothing(tmp_path):
    folder = write_finetune(tmp_path, "scratch", fraction=1.0, seed=0, values=[0.5])
    (folder / "metrics.jsonl").unlink()
    comparison = comparison_of_runs(find_runs([tmp_path]))
    assert curves.validation_curves(comparison.column_runs["lits"], comparison.styles) == []
    assert curves.loss_curves(list(comparison.column_runs["lits"].runs)) == []


def test_series_leaves_out_what_is_not_finite(tmp_path):
    for step, value in [(1, 1.0), (2, float("nan")), (3, 3.0)]:
        append_metrics(tmp_path, step, {"a": value})
    steps, values = curves.series(read_run(tmp_path), "a")
    assert steps.tolist() == [1, 3]
    assert values.tolist() == [1, 3]
    assert curves.series(read_run(tmp_path), "b")[0].size == 0


def test_smooth_keeps_level_and_does_not_lag():
    assert curves.smooth(np.full(50, 2.0)) == pytest.approx(2.0)
    ramp = np.arange(400.0)
    assert curves.smooth(ramp)[100:300] == pytest.approx(ramp[100:300])
    noise = np.random.default_rng(0).normal(size=400)
    assert curves.smooth(noise).std() < 0.3


def test_average_keeps_the_shared_steps():
    steps, mean = curves.average([(np.array([1, 2, 3]), np.array([1.0, 2, 3])), (np.array([2, 3]), np.array([4.0, 5]))])
    assert steps.tolist() == [2, 3]
    assert mean.tolist() == [3, 4]


def test_svg_is_reproducible_and_needs_no_font(run_folders):
    figure = drawn(comparison_of_runs(find_runs([run_folders]))).figure
    assert style.to_svg(figure) == style.to_svg(figure)
    assert "<text" not in style.to_svg(figure)
