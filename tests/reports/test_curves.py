import numpy as np
import pytest
from report_samples import write_finetune

from ssl_med.reports.figures import curves
from ssl_med.reports.numbers.tables import tabulate
from ssl_med.reports.run_folder import find_runs, read_run
from ssl_med.reports.writing import append_metrics


def test_styles_are_fixed_and_apart():
    known = [curves.style(name) for name in ("pcrl", "models_genesis", "context_restoration", "moco", "simclr")]
    assert len({look.color for look in known}) == len({look.marker for look in known}) == 5
    assert known[0].color == "#0072b2"
    assert curves.style("scratch").color not in {look.color for look in known}
    assert curves.style("scratch").line != "-"
    variants = [curves.style("pcrl", variant=k) for k in range(3)]
    assert {look.color for look in variants} == {known[0].color}
    assert len({str(look.line) for look in variants}) == 3
    assert curves.style("some_new_method") == curves.style("some_new_method")


def test_label_efficiency_draws_means_spread_and_seeds(run_folders):
    (table,) = tabulate(find_runs([run_folders]))
    axes = curves.label_efficiency(table).axes[0]
    means = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(means) == ["scratch", "models_genesis", "pcrl"]
    assert means["pcrl"].get_ydata() == pytest.approx([0.75, 0.90])
    assert means["pcrl"].get_xdata() == pytest.approx([0.2, 1.0], rel=0.05)
    assert means["scratch"].get_color() == curves.style("scratch").color
    points = [tuple(line.get_ydata()) for line in axes.lines if line.get_label().startswith("_")]
    assert len(points) == 6
    assert (pytest.approx(0.74), pytest.approx(0.76)) in points
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20 %", "100 %"]
    assert axes.get_xscale() == "log"


def test_label_efficiency_with_one_fraction_one_seed(tmp_path):
    write_finetune(tmp_path, "scratch", fraction=1.0, seed=0, values=[0.5])
    (table,) = tabulate(find_runs([tmp_path]))
    axes = curves.label_efficiency(table).axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([0.5])


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
    (table,) = tabulate(runs)
    figures = curves.validation_curves(table)
    assert len(figures) == 2
    lines = {line.get_label(): line for line in figures[0].axes[0].lines}
    assert lines["pcrl"].get_ydata() == pytest.approx([0.25, 0.5, 0.75])


def test_nothing_logged_draws_nothing(tmp_path):
    folder = write_finetune(tmp_path, "scratch", fraction=1.0, seed=0, values=[0.5])
    (folder / "metrics.jsonl").unlink()
    (table,) = tabulate(find_runs([tmp_path]))
    assert curves.validation_curves(table) == []
    assert curves.loss_curves(list(table.runs)) == []


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
    (table,) = tabulate(find_runs([run_folders]))
    text = curves.to_svg(curves.label_efficiency(table))
    assert text == curves.to_svg(curves.label_efficiency(table))
    assert "<text" not in text
