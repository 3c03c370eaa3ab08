"""Numbers and runs as text that several sections use."""

from __future__ import annotations

from collections.abc import Iterable

from ssl_med.evaluation.metrics import metric_of
from ssl_med.evaluation.statistics import Outcome, Refusal
from ssl_med.reports.numbers.cells import EMPTY
from ssl_med.reports.numbers.comparison import significant
from ssl_med.reports.numbers.design import Entry
from ssl_med.reports.numbers.fairness import percent

INTERVALS = (
    "Bars: 95 % Student interval of the mean over seeds, from three seeds on. Rows are shifted so as not to overlap."
)
PUBLISHED_P = "Published p: the paper's, of that row against the best other one."
_ROLES = {"pretrain": "pretraining", "tune": "trial", "final": "run", "features": "feature run"}


def missing_lines(entries: Iterable[Entry]) -> list[str]:
    """One line for each reason: how many runs, and of which rows, budgets and seeds."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.role, entry.why), []).append(entry)
    lines = []
    for (role, why), members in found.items():
        rows = listed(dict.fromkeys(entry.row for entry in members))
        shares = listed(percent(x) for x in sorted({entry.fraction for entry in members})) if role == "final" else ""
        seeds = ", ".join(map(str, sorted({entry.seed for entry in members})))
        where = f"{rows}{f' at {shares}' if shares else ''}, seed {seeds}"
        lines.append(f"{count(len(members), _ROLES[role])} ({where}): {why}")
    return lines


def count(number: int, thing: str) -> str:
    """'1 seed', '6 seeds'."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def titled(label: str) -> str:
    """'fine_tuning' -> 'Fine tuning'."""
    text = label.replace("_", " ")
    return text[:1].upper() + text[1:]


def listed(words: Iterable[str]) -> str:
    """Words with commas, the first five where there are many."""
    found = list(words)
    return ", ".join(found) if len(found) <= 6 else f"{', '.join(found[:5])} and {len(found) - 5} more"


def p_text(outcome: Outcome) -> str:
    """'p 0.031', 'p < 0.001' or 'no p'."""
    if isinstance(outcome, Refusal):
        return "no p"
    return f"p {outcome.p:.3f}" if outcome.p >= 0.001 else "p < 0.001"


def mark_of(outcome: Outcome, metric: str) -> str:
    """How a difference of a metric to the baseline is marked: only where its corrected p is below alpha."""
    if not significant(outcome):
        return ""
    return "better" if metric_of(metric).better(outcome.effect, 0) else "worse"


def named(metric: str) -> str:
    """'dice', 'hd95_mm (lower is better)': a metric as captions name it."""
    return metric if metric_of(metric).higher_is_better else f"{metric} (lower is better)"


def duration(seconds: object) -> str:
    """75 -> '1 min 15 s'."""
    if not isinstance(seconds, int | float):
        return EMPTY
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
