"""What stands in the report of a comparison, complete, with gaps, and at its smallest."""

import csv
import re
from dataclasses import replace

import pytest
from comparison_samples import sample_comparison
from report_samples import write_finetune
from test_loose_runs import Page

from ssl_med.evaluation.statistics import Refusal
from ssl_med.reports import page
from ssl_med.reports.figures.traces import series_traces
from ssl_med.reports.page import report_runs, write_report
from ssl_med.reports.render import html, latex, markdown
from ssl_med.reports.render.blocks import Beside
from ssl_med.reports.render.latex import escape
from ssl_med.reports.sections import overview, published, results


def written(comparison, out):
    page = Page(write_report(comparison, out).read_text())
    return page, (out / "report.md").read_text(), (out / "table.tex").read_text(), (out / "results.csv").read_text()


def rendered(sections, out):
    """Page, Markdown and LaTeX of some sections alone: quicker than a whole report."""
    shown = Page(html.page("", "", [], sections))
    return shown, markdown.text("", "", [], sections, out), latex.text("sample", "", sections)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    gaps = [("moco", 0.05, seed, "failed: loss is nan") for seed in range(6)] + [("pcrl", 0.2, 5, "not run yet")]
    comparison = sample_comparison(
        root / "runs",
        missing=gaps,
        source="Someone 2021, Table 1",
        published={"mae": {"dice@0.2": 75.9}},
        published_p={"mae": {"dice@0.2": 0.0312}},
    )
    return (comparison, root / "report", *written(comparison, root / "report"))


@pytest.mark.slow
def test_the_page_holds_every_part(report):
    comparison, _, page, markdown, _, _ = report
    sections = ["In short", "Dice", "Ranks over all columns and budgets", "Cost", "Published and ours"]
    for title in [*sections, "How the comparison was made", "What was run"]:
        assert title in page.text
        assert f"## {title}" in markdown
    mae = comparison.cell("dice", 1.0, "mae")
    assert f"{mae.mean:.3f} ± {mae.sd:.3f} · n 6" in page.text
    difference = comparison.differences["dice", 1.0, "mae"]
    for words in (f"{difference.outcome.effect:+.3f} [{difference.interval.low:+.3f}", "paired t-test over seeds, two-sided",
                  "corrected by Holm over all 27 comparisons", "on 10 test cases", "Protocol One network for all.",
                  "Better than scratch at the end", "6 seeds share one pretraining of each row",
                  "All 8 trials are listed", "At an end of the grid", "Published: Someone 2021, Table 1"):  # fmt: skip
        assert words in page.text, words
        if not words.startswith("Protocol"):
            assert words in markdown.replace("**", ""), words


def test_the_p_of_the_paper_stands_beside_ours_everywhere(report):
    comparison, _, page, markdown, tex, table = report
    assert comparison.differences["dice", 0.2, "mae"].outcome.p < 0.001
    assert re.search(r"mae dice, 20 % 75\.9 \S+ ± \S+ 0\.0312 < 0\.001", page.text)
    assert re.search(r"\| mae \| dice, 20 % \| 75\.9 \| .* \| 0\.0312 \| < 0\.001 \|", markdown)
    assert re.search(r"75\.9 \{\\scriptsize p 0\.0312\}", tex)
    rows = [row for row in csv.DictReader(table.splitlines()) if row["published_p"]]
    assert {(row["row"], row["fraction"], row["published"], row["published_p"]) for row in rows} == {
        ("mae", "0.2", "75.9", "0.0312")
    }
    assert len(rows) == 6


def test_it_needs_no_network_and_no_script(report):
    _, out, page, _, _, _ = report
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]
    assert all(attrs["src"].startswith("data:image/") for _, attrs in page.tags if "src" in attrs)
    assert not re.search(r"url\(|@import", (out / "report.html").read_text())
    ids = {"#" + attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"] for tag, attrs in page.tags if tag == "a"} <= ids


def test_missing_cells_say_why(report):
    _, _, page, markdown, tex, table = report
    line = "6 runs (moco at 5 %, seed 0, 1, 2, 3, 4, 5): failed: loss is nan"
    assert page.text.count(line) == 3  # on top, under the table, among the runs
    assert line in markdown
    assert line.replace("%", r"\%") in tex
    assert "n 5 of 6" in page.text
    assert "missing" in page.text
    rows = list(csv.DictReader(table.splitlines()))
    gone = [row["missing_because"] for row in rows if row["row"] == "moco" and row["fraction"] == "0.05"]
    assert gone == ["failed: loss is nan"] * 6
    assert len(rows) == 3 + 8 + 72
    done = next(row for row in rows if row["role"] == "final" and not row["missing_because"])
    assert float(done["value"]) == float(done["test/dice"])


def test_pictures_of_the_markdown_exist(report):
    _, out, _, markdown, _, _ = report
    figures = re.findall(r"\]\((figures/.*?)\)", markdown)
    # label budgets; learning at three of them; scatter; losses of three pretrainings; too few blocks for ranks
    assert len(figures) == 1 + 3 + 1 + 3
    assert all((out / figure).read_bytes().startswith(b"\x89PNG") for figure in figures)


def test_tex_is_whole(report):
    tex = report[4]
    assert tex.count(r"\begin{table}") == tex.count(r"\end{table}") == 2
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 2
    for block in re.findall(r"\\begin\{tabular\}\{(l r*|l[r]*)\}(.*?)\\end\{tabular\}", tex, re.DOTALL):
        columns, body = block
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) in (5, 4)  # head, and four rows or three challengers
        assert all(line.count("&") == len(columns) - 1 for line in lines)
    for words in ("over 6 seeds", "on 10 test cases", "95 \\% bootstrap interval", "Holm over all 27 comparisons"):
        assert words in tex
    assert re.search(r"(?<!\\)%", tex.replace("% needs", "")) is None
    assert escape("a_b & 5 % < {x}") == r"a\_b \& 5 \% $<$ \{x\}"


def test_few_seeds_are_refused_in_print(tmp_path):
    comparison = sample_comparison(
        tmp_path / "runs", rows=("scratch", "mae"), fractions=(1.0,), seeds=3, test="sign_flip", tuned=False
    )
    assert all(isinstance(x.outcome, Refusal) for x in comparison.differences.values())
    page, markdown, _, _ = written(comparison, tmp_path / "out")
    for text in (page.text, markdown):
        assert "no p" in text
        assert "3 pairs cannot give p below 0.25" in text
        assert not re.search(r"(?<!no )\bp (<|0\.)", text)


def test_all_columns_stand_in_one_table(tmp_path):
    names = ("dice", "far_away")
    gaps = [("moco", 1.0, seed, "not run yet") for seed in range(6)]
    comparison = sample_comparison(tmp_path / "runs", columns=names, missing=gaps, tuned=False, early_steps=())
    _, text, tex = rendered(overview.section(comparison), tmp_path / "report")
    head, *rows = [line.strip("| ").split(" | ") for line in part_of(text, "All columns") if line.startswith("|")]
    assert [cell for cell in head if cell] == [
        f"{name} (dice · {share} %)" for name in ("dice", "far away") for share in (5, 20, 100)]  # fmt: skip
    cells = {row[0]: row[1:] for row in rows[1:]}
    assert list(cells) == list(comparison.design.rows)
    base = comparison.cell("far_away", 0.05, "scratch")
    assert cells["scratch"][3] == f"{base.mean:.3f} (± {base.sd:.3f})"
    outcome = comparison.differences["far_away", 0.2, "mae"].outcome
    assert outcome.p < 0.05
    said = f"**{comparison.cell('far_away', 0.2, 'mae').mean:.3f}** ({outcome.effect:+.3f}, "
    assert cells["mae"][4].startswith(said)
    assert cells["moco"][2] == cells["moco"][5] == "missing"
    assert "tab:sample-all-columns" in tex
    assert page.SECTIONS.index(overview.section) < page.SECTIONS.index(results.section)
    # too many to read: the largest budget of each
    wide = sample_comparison(
        tmp_path / "wide", rows=("scratch", "mae"), columns=("a", "b", "c"), seeds=1, tuned=False, early_steps=()
    )
    grid = overview.overview(wide)
    assert [cell.aside for cell in grid.head[1:]] == ["dice · 100 %"] * 3
    assert "Of each column its largest label budget" in grid.caption[0]
    # one column says it all by itself
    one = replace(wide, design=replace(wide.design, columns=wide.design.columns[:1]))
    assert overview.section(one) == []


def test_a_series_of_columns_is_drawn_as_one_curve(tmp_path):
    names = ("ratio 1:1", "ratio 9:1", "ratio 4:1")
    comparison = sample_comparison(
        tmp_path / "runs", columns=names, series="ratio", fractions=(0.2, 1.0), tuned=False, early_steps=()
    )
    ticks, lines = series_traces(comparison, "ratio")
    assert ticks == ["1:1", "9:1", "4:1"]  # as declared, not sorted
    assert [line.label for line in lines] == list(comparison.design.rows)
    for line in lines:
        assert list(line.x) == [0, 1, 2]
        assert line.mean == [comparison.cell(name, 1.0, line.label).mean for name in names]
    shown, text, _ = rendered(overview.section(comparison), tmp_path / "report")
    assert "![Test dice by column: ratio](figures/series-ratio.png)" in text
    assert (tmp_path / "report" / "figures" / "series-ratio.png").is_file()
    assert [attrs["alt"] for tag, attrs in shown.tags if tag == "img"] == ["Test dice by column: ratio"]
    # columns that share nothing, or a single one, are no curve
    assert series_traces(comparison, "") == ([], [])
    alone = sample_comparison(tmp_path / "alone", columns=("ratio 1:1",), series="ratio", tuned=False, early_steps=())
    assert series_traces(alone, "ratio") == ([], [])


def part_of(markdown, title):
    """Lines of a section, without its title and empty ones."""
    lines = markdown.partition(f"## {title}\n")[2].partition("\n## ")[0].splitlines()
    return [line for line in lines if line.strip()]


def test_one_row_one_budget(tmp_path):
    comparison = sample_comparison(tmp_path / "runs", rows=("scratch",), fractions=(1.0,), seeds=1, tuned=False)
    page, markdown, tex, _ = written(comparison, tmp_path / "out")
    assert "Difference to" not in page.text
    assert "By label budget" not in page.text
    assert "Friedman's test needs three rows or more" in markdown
    assert tex.count(r"\begin{table}") == 1
    assert "± nan" not in page.text


def test_without_scratch_another_row_is_the_baseline(tmp_path):
    comparison = sample_comparison(tmp_path / "runs", rows=("pcrl", "mae"), seeds=4)
    page, _, _, _ = written(comparison, tmp_path / "out")
    assert "Difference to pcrl" in page.text
    assert "minus pcrl" in page.text
    assert "what pcrl reaches with all of them" in page.text


def test_before_the_first_result(tmp_path):
    gone = [(row, x, k, "not run yet") for row in ("scratch", "mae") for x in (0.2, 1.0) for k in range(2)]
    comparison = sample_comparison(
        tmp_path / "runs", rows=("scratch", "mae"), fractions=(0.2, 1.0), seeds=2, missing=gone
    )
    page, markdown, tex, _ = written(comparison, tmp_path / "out")
    assert "No run of this column has finished." in page.text
    assert "8 runs (scratch, mae at 20 %, 100 %, seed 0, 1): not run yet" in markdown
    assert "no row has a result" in page.text
    assert "No run of this column has finished" in tex


def test_a_baseline_that_failed(tmp_path):
    gone = [("scratch", x, k, "failed: no memory") for x in (0.2, 1.0) for k in range(2)]
    comparison = sample_comparison(
        tmp_path / "runs", rows=("scratch", "mae"), fractions=(0.2, 1.0), seeds=2, missing=gone
    )
    page, _, _, _ = written(comparison, tmp_path / "out")
    assert "needs scratch at 100 % of the labels" in page.text
    assert comparison.family() == 2 * 3  # the end and two early steps


def test_names_cannot_inject(tmp_path):
    evil = "<script>alert(1)</script>"
    comparison = sample_comparison(
        tmp_path / "runs", rows=("scratch", "mae"), fractions=(1.0,), seeds=1, title=evil, protocol=evil
    )
    page, _, _, _ = written(comparison, tmp_path / "out")
    assert "script" not in [tag for tag, _ in page.tags]
    assert evil in page.text


def test_equal_studies_make_equal_reports(tmp_path):
    comparison = sample_comparison(tmp_path / "runs", rows=("scratch", "mae"), fractions=(1.0,), seeds=2)
    assert (
        write_report(comparison, tmp_path / "a").read_bytes() == write_report(comparison, tmp_path / "b").read_bytes()
    )


def test_published_numbers_stand_apart_from_a_small_form_and_from_phantoms(tmp_path):
    """They are the paper's, of the full table: beside ours they would be read as a comparison."""
    numbers = {
        "published": {"mae": {"dice": 0.777}},
        "published_p": {"mae": {"dice": 0.0123}},
        "source": "Someone 2021",
    }
    known = {"rows": ("scratch", "mae"), "fractions": (1.0,), "seeds": 1, "tuned": False, "early_steps": ()}
    full = sample_comparison(tmp_path / "runs", **known, **numbers)
    small = replace(full, design=replace(full.design, scale="small"))
    first = full.of("final")[0]
    phantom = replace(first, run=replace(first.run, summary={**first.run.summary, "synthetic": True}))
    drawn = replace(full, entries=tuple(phantom if entry is first else entry for entry in full.entries))
    for comparison, apart in ((full, ""), (small, "small form of the table"), (drawn, "synthetic phantoms")):
        grid = results.results(comparison, comparison.design.columns[0])
        (section,) = published.section(comparison)
        said = str(section.blocks)
        figures = [block for block in section.blocks if isinstance(block, Beside)]
        assert ("published" in grid.head) == (not apart)
        assert ("0.777" in str(grid.rows)) == (not apart)
        assert bool(figures) == (not apart)
        assert ("On the line: equal" in said) == (not apart)
        assert "0.777" in said
        assert "0.0123" in said
        assert apart in said
        ours = f"{comparison.cell('dice', 1.0, 'mae').mean:.3f}"
        assert (ours in said) == (not apart)


def test_phantoms_are_said_before_every_number(tmp_path):
    """One run on phantoms is enough; without one nothing is said."""
    about = "numbers come from synthetic phantoms and say nothing about patients."
    for synthetic in (2, 1, 0):
        says = f"{'Some of these' if synthetic == 1 else 'These'} {about}"
        runs, out = tmp_path / f"runs-{synthetic}", tmp_path / f"report-{synthetic}"
        write_finetune(runs, "scratch", fraction=1.0, seed=0, values=[0.5], synthetic=synthetic > 0)
        write_finetune(runs, "pcrl", fraction=1.0, seed=0, values=[0.6], synthetic=synthetic > 1)
        page = Page(report_runs([runs], out).read_text())
        markdown, tex = (out / "report.md").read_text(), (out / "table.tex").read_text()
        assert page.text.count(says) == markdown.count(says) == min(synthetic, 1)
        tables = tex.count(r"\begin{table}")
        assert tables == 2
        assert len(re.findall(re.escape(says) + "}", tex)) == (tables if synthetic else 0)  # ends each caption
        if synthetic:
            assert page.text.index(says) < page.text.index("pretraining method")
            assert f"{synthetic} of 2 runs read phantoms: lits" in page.text
