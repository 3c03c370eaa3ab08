"""The same test cases as every row answers them."""

from __future__ import annotations

from ssl_med.reports.escape import file_stem, picture_stem
from ssl_med.reports.numbers.column_runs import ColumnRuns
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.render.blocks import Block, Heading, Note, Picture, Pictures, Section


def section(comparison: Comparison) -> list[Section]:
    """Nothing where no run has pictures."""
    blocks = [block for runs in comparison.column_runs.values() for block in _pictures(runs)]
    return [Section("pictures", "Predictions", blocks)] if blocks else []


def _pictures(runs: ColumnRuns) -> list[Block]:
    """Pictured cases of every row at the smallest and the largest budget."""
    drawn = {run.folder: {picture_stem(path.stem): path for path in run.figures} for run in runs.runs}
    order = runs.cases_by_difficulty()
    counts = {case: sum(picture_stem(case) in paths for paths in drawn.values()) for case in order}
    # a run pictures its own worst cases too; this section shows those that most runs picture
    cases = [case for case, count in counts.items() if count and count == max(counts.values())]
    chosen = [cases[k] for k in sorted({0, len(cases) // 2})] if cases else []
    blocks: list[Block] = []
    for case in chosen:
        pictures = []
        for row in runs.rows:
            for fraction in dict.fromkeys((runs.fractions[0], runs.fractions[-1])):
                pairs = [(run, drawn[run.folder].get(picture_stem(case))) for run in runs.runs_of(row, fraction)]
                run, path = next(((run, path) for run, path in pairs if path), (None, None))
                if run and path:
                    words = f"{percent(fraction)} labels · seed {run.seed}"
                    stem = f"case-{file_stem(runs.title)}-{picture_stem(case)}-{file_stem(row)}-{fraction:g}"
                    pictures.append(Picture(path, f"Case {case}: {row} · {words}", stem, row, words))
        place = "hardest" if case == cases[0] else "middle"
        blocks += [
            Heading(f"{runs.title}: case {case}"),
            Note(f"The {place} one of the {len(cases)} pictured cases, by mean {runs.metric} of all runs."),
            Pictures(pictures, "pictures"),
        ]
    return blocks
