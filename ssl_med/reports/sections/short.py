"""In short: the outcome in a few sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from ssl_med.evaluation.statistics import Refusal
from ssl_med.reports.numbers.comparison import Comparison, Key
from ssl_med.reports.numbers.differences import Difference
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.wording import count, listed, mark_of
from ssl_med.reports.render.blocks import Listing, Section


def section(comparison: Comparison) -> list[Section]:
    """What differs from the baseline, and what cannot be said."""
    lines = in_short(comparison)
    return [Section("short", "In short", [Listing(lines)])] if lines else []


def in_short(comparison: Comparison) -> list[str]:
    """One line a finding."""
    finals = comparison.of("final")
    if not finals:
        return []
    done = sum(not entry.why for entry in finals)
    lines = [f"{done} of {len(finals)} runs behind the cells are done."] if comparison.design.planned else []
    tested = [(key, x) for key, x in comparison.differences.items() if not math.isnan(x.outcome.effect)]
    base = comparison.design.baseline
    if tested:
        refused = sum(isinstance(x.outcome, Refusal) for _, x in tested)
        marks = {key: mark_of(x.outcome, comparison.metric(key[0])) for key, x in tested}
        for word in ("better", "worse"):
            chosen = [(key, x) for key, x in tested if marks[key] == word]
            if chosen:
                lines.append(
                    f"{word.capitalize()} than {base} at the end, with corrected p below 0.05: {_told(chosen)}."
                )
        if not any(marks.values()) and refused < len(tested):
            lines.append(f"No row differs from {base} at the end with corrected p below 0.05.")
        if refused:
            lines.append(
                f"For {refused} of {count(len(tested), 'difference')} there is no p-value; the tables say why."
            )
    elif not comparison.design.planned:
        lines.append(
            f"Nothing was compared: no row has a seed in common with {base}."
            if base
            else "Nothing was compared: no run starts from scratch, so there is no baseline."
        )
    early = comparison.early_differences
    if early:
        found = [
            f"{key[2]} at step {key[3]} with {percent(key[1])} of the labels ({x.effect:+.3f})"
            for key, x in early.items()
            if mark_of(x, comparison.metric(key[0]))
        ]
        lines.append(f"Earlier, against {base}, corrected p below 0.05: {listed(found)}." if found else
                     f"At no earlier step does a row differ from {base} with corrected p below 0.05.")  # fmt: skip
    return lines


def _told(chosen: Sequence[tuple[Key, Difference]]) -> str:
    words = []
    ordered = sorted(chosen, key=lambda x: (x[0][0], x[0][2]))
    for (column, row), members in groupby(ordered, lambda x: (x[0][0], x[0][2])):
        shares = ", ".join(f"{percent(key[1])} {x.outcome.effect:+.3f}" for key, x in members)
        words.append(f"{row} in {column.replace('_', ' ')} ({shares})")
    return "; ".join(words)
