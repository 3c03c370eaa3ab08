"""The top of the page, above the contents: numbers at a glance, and whatever puts the report in doubt."""

from __future__ import annotations

from ssl_med.reports.numbers.cells import EMPTY
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.costs import seconds
from ssl_med.reports.numbers.fairness import leak_warnings
from ssl_med.reports.numbers.wording import count, duration, missing_lines
from ssl_med.reports.render.blocks import Block, Listing, Tiles

PHANTOMS = "{} numbers come from synthetic phantoms and say nothing about patients."


def lead(comparison: Comparison) -> str:
    """The sentence under the title."""
    design = comparison.design
    if len(comparison.of("features")) == len(comparison.entries):
        return "Features of frozen networks, compared on the same images. Every number is read from a run folder named below."
    if not design.planned:
        against = ", compared with training from scratch on the same task" if design.baseline else ""
        return f"Backbones pretrained without labels{against}. Every number is read from a run folder named below."
    what = f"{len(design.rows)} ways to start, {count(len(design.columns), 'column')}"
    return (
        f"Table {design.name}: {what}, {len(design.seeds)} seeds. All rows are compared with {design.baseline}; every number "
        "is read from a run folder listed at the end."
    )


def head(comparison: Comparison) -> list[Block]:
    """Blocks above the list of contents."""
    unused = [f"{entry.run.folder}: {entry.why}" for entry in comparison.of("unused")]
    return [
        *([Listing(_phantoms(comparison), phantoms(comparison), warning=True)] if comparison.synthetic else []),
        _tiles(comparison),
        Listing(unused, "These runs could not be used:", warning=True),
        Listing(_doubts(comparison), "Missing or in doubt:", warning=True),
    ]


def phantoms(comparison: Comparison) -> str:
    """The sentence that must go wherever the numbers go; '' where they come from patients."""
    if not comparison.synthetic:
        return ""
    ran = [entry.run for entry in comparison.entries if not entry.why]
    return PHANTOMS.format("These" if len(comparison.synthetic) == len(ran) else "Some of these")


def _phantoms(comparison: Comparison) -> list[str]:
    ran = [entry.run for entry in comparison.entries if not entry.why]
    data = ", ".join(sorted({run.data for run in comparison.synthetic}))
    return [f"{len(comparison.synthetic)} of {count(len(ran), 'run')} read phantoms: {data}"]


def _tiles(comparison: Comparison) -> Tiles:
    finals = comparison.of("final")
    runs = [entry.run for entry in comparison.entries if not entry.why]
    methods = {run.method for run in runs if run.kind == "pretrain" or run.card}
    done = sum(not entry.why for entry in finals)
    behind = "run behind the cells" if done == len(finals) == 1 else "runs behind the cells"
    shares = sorted({x for column in comparison.design.columns for x in column.fractions})
    found = comparison.column_runs.values()
    pairs = [
        (str(len(methods)), "pretraining method" if len(methods) == 1 else "pretraining methods"),
        (f"{done} of {len(finals)}" if comparison.design.planned else str(done), behind),
        (str(len(comparison.design.seeds)), "seed" if len(comparison.design.seeds) == 1 else "seeds"),
        (" · ".join(f"{100 * x:.3g}" for x in shares) or EMPTY, "% of labels"),
        (" · ".join(dict.fromkeys(runs.n_test for runs in found)) or EMPTY, "test cases"),
    ]
    if comparison.design.planned:
        pairs.append((str(comparison.family()), "comparisons, one Holm family"))
    return Tiles([*pairs, (duration(sum(map(seconds, runs))), "computing in all")])


def _doubts(comparison: Comparison) -> list[str]:
    lines = missing_lines(comparison.missing)
    for runs in comparison.column_runs.values():
        lines += [f"{runs.title}: {line}" for line in leak_warnings(runs.runs, runs.label)]
    return lines
