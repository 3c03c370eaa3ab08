import re
import shutil

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from report_samples import write_finetune

from ssl_med.reports import run_folder as records
from ssl_med.reports import writing
from ssl_med.reports.figures import errors, pictures
from ssl_med.reports.page import report_runs
from ssl_med.reports.style import COLORS


def line(name, notes="AUC 0.8"):
    x = np.linspace(0, 1, 9)
    return errors.Line(name, x, np.sqrt(x), notes, 0.3)


@pytest.mark.parametrize("kind", ["roc", "precision_recall"])
@pytest.mark.parametrize("count", [1, 4, 5, 14])
def test_every_class_has_a_curve_and_its_words(kind, count):
    figure = errors.curves([line(f"finding {k}", f"note {k}") for k in range(count)], kind=kind)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == (1 if count <= 4 else count)
    words = [text.get_text() for axes in shown for text in [*axes.texts, axes.title, axes._left_title]]
    words += [text.get_text() for axes in shown if axes.get_legend() for text in axes.get_legend().get_texts()]
    for k in range(count):
        assert any(f"finding {k}" in word for word in words)
        assert any(f"note {k}" in word for word in words)
    drawn = [x for axes in shown for x in axes.lines if len(x.get_xdata()) == 9]
    assert len(drawn) == count
    # told apart without colour, or by place
    assert len({str(x.get_linestyle()) + str(x._dash_pattern) for x in drawn}) == (count if count <= 4 else 1)


def test_the_confusion_says_counts_and_shares():
    figure = errors.confusion(np.array([[30, 10], [0, 0]]), ("no", "yes"))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["30\n75 %", "10\n25 %", "0\n0 %", "0\n0 %"]
    assert np.allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answer", "truth")


def test_findings_are_shown_as_found_missed_and_false():
    figure = errors.finding_tables(np.array([[[90, 10], [4, 6]], [[50, 0], [0, 0]]]), ("Mass", "Hernia"))
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["found", "missed", "false alarm", "rightly absent"]
    assert [text.get_text() for text in axes.texts][:4] == ["6\n60 %", "4\n40 %", "10\n10 %", "90\n90 %"]


def test_reliability_and_froc():
    figure = errors.reliability(
        np.array([0.1, 0.7]), np.array([0.0, 0.9]), np.array([50, 7]), ece=0.123, of="probability", bins="15 bins"
    )
    upper, lower = figure.axes
    assert upper.lines[1].get_ydata().tolist() == [0.0, 0.9]
    assert "ECE 0.123" in upper._left_title.get_text()
    assert [bar.get_height() for bar in lower.patches] == [50, 7]
    assert "15 bins" in lower.get_xlabel()
    at = (0.125, 0.25, 0.5, 1, 2, 4, 8)
    figure = errors.froc(np.array([0.0, 1.0, 9.0]), np.array([0.2, 0.6, 0.6]), at=at, lesions=5, scans=1)
    axes = figure.axes[0]
    assert axes.lines[1].get_ydata() == pytest.approx([0.25, 0.3, 0.4, 0.6, 0.6, 0.6, 0.6])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    assert "1 scan)" in axes.get_xlabel()


def test_values_of_all_cases():
    dice, distance = np.array([0.1, 0.8, 0.9]), np.array([40.0, 3.0, 2.0])
    figure = errors.case_values({"Dice": {"WT": dice, "TC": dice / 2}, "HD95 in mm": {"WT": distance, "TC": distance}})
    left, right = figure.axes
    assert sorted(left.lines[0].get_xdata()) == pytest.approx(sorted(dice))
    assert left.get_xlim()[1] == pytest.approx(1.03)
    assert right.get_xlim()[1] > 40
    medians = [x.get_xdata()[0] for x in left.lines if x.get_color() == COLORS[1]]
    assert medians == pytest.approx([0.8, 0.4])
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["WT", "TC"]


@pytest.mark.parametrize("size", [(30, 40), (30, 40, 12)])
def test_a_verdict_tells_truth_and_answer(size):
    image = np.random.default_rng(0).random((1, *size))
    long = "1.3.6.1.4.1.14519.5.2.1.6279.6001.250397690690072950000431855143/129"
    figure = pictures.verdict(image, case=long, lines=["truth: nodule", "answer: " + "word " * 40], sides=False)
    title, words = (text.get_text() for text in figure.texts)
    assert title[:6] == long[:6]
    assert title.endswith("/129")
    assert len(title) <= 13 * figure.get_figwidth() + 1
    assert words.startswith("truth: nodule\nanswer: word")
    assert max(map(len, words.splitlines())) <= 14 * figure.get_figwidth() + 1
    corners = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "R" not in corners
    assert len(corners) == (3 if len(size) == 3 else 0)


def examined_run(root, *, values=(0.2, 0.5, 0.9), **changes):
    folder = write_finetune(root, "scratch", fraction=1.0, seed=0, values=list(values), pictures=True)
    chosen = (("12", "first", 0.5), ("13", "best", 0.9), ("11", "worst", 0.2))
    told = [{"case": c, "why": why, "goodness": good, "file": f"figures/{c}.png"} for c, why, good in chosen]
    summary = {**records.read_run(folder).summary, "interval": {"low": 0.31, "high": 0.72}, "pictures": told}
    writing.write_summary(folder, {**summary, **changes})
    panels = {"Dice": {"liver": np.array(values)}}
    pictures.save(errors.case_values(panels), folder / "figures" / "analysis-cases.png")
    return folder


def test_the_report_shows_the_worst_cases_first(tmp_path):
    folder = examined_run(tmp_path / "runs")
    page = report_runs([tmp_path / "runs"], tmp_path / "report").read_text()
    section = page[page.index('id="errors"') : page.index('id="cases"')]
    assert re.findall(r"<b>(\w+)</b> · (\d+) · ([\d.]+)", section) == [
        ("worst", "11", "0.200"),
        ("best", "13", "0.900"),
    ]
    assert "dice 0.533 [0.310, 0.720]" in section
    assert section.count("<img") == 3  # the case that all runs picture stands under "Predictions"
    assert "0.533 [0.310, 0.720]" in page[page.index('id="runs"') :]
    text = (tmp_path / "report" / "report.md").read_text()
    copied = re.findall(r"!\[worst: 11 \(0.200\)\]\((.*?)\)", text)
    assert (tmp_path / "report" / copied[0]).read_bytes() == (folder / "figures" / "11.png").read_bytes()


def test_class_numbers_stand_in_a_table(tmp_path):
    curve = {"positives": 3, "negatives": 9, "auc": 0.75, "average_precision": 0.5}
    found = {"curves": {"Mass": curve}, "ece": {"all findings": 0.02, "Mass": 0.04, "Hernia": None}}
    found |= {
        "calibrated": "probability of a finding against its frequency",
        "calibration_bins": "15 bins of equal width",
    }
    examined_run(tmp_path / "runs", errors=found)
    report_runs([tmp_path / "runs"], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| Mass | 3 | 9 | 0.750 | 0.500 | 0.040 |" in text
    assert "| all findings | — | — | — | — | 0.020 |" in text
    assert "| Hernia | — | — | — | — | — |" in text
    assert "15 bins of equal width" in text


def test_a_picture_outside_of_the_run_is_never_read(tmp_path):
    folder = examined_run(tmp_path / "runs")
    shutil.copy(folder / "figures" / "11.png", tmp_path / "secret.png")
    items = [{"case": "x", "why": "worst", "goodness": 0.1, "file": "../../../secret.png"}]
    run = records.read_run(folder)
    assert records.Run(folder, {**run.summary, "pictures": items}).pictured == []


def test_figures_are_safe_for_the_colour_blind():
    """Neighbouring colours differ in brightness too."""
    bright = [np.dot(to_rgb(color), (0.2126, 0.7152, 0.0722)) for color in COLORS[:2]]
    assert abs(bright[0] - bright[1]) > 0.05
    grey = [np.dot(to_rgb(color), (0.2126, 0.7152, 0.0722)) for color in (pictures.TRUTH, pictures.PREDICTION)]
    assert abs(grey[0] - grey[1]) > 0.15
