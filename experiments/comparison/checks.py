"""What a plan is refused for before any run starts: metrics that no run has, bounds that judge nothing, unequal networks."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.comparison.plan import Plan, PlannedRun
from experiments.config.protocols import protocol_class
from ssl_med.catalogue import nearest
from ssl_med.config import to_plain
from ssl_med.evaluation.metrics import metric_of
from ssl_med.evaluation.tasks import task_class
from ssl_med.networks.pyramid import BackboneConfig
from ssl_med.spec import SslMedError


def check_plan(plan: Plan, trials: Sequence[PlannedRun], finals: Sequence[PlannedRun]) -> None:
    """Refuses what no run could mend.

    Raises:
        SslMedError: names the table and the column.
    """
    _check_metrics(plan, [*trials, *finals])
    _check_collapsed(plan, finals)
    _check_one_network(plan, finals)


def _check_metrics(plan: Plan, nodes: Sequence[PlannedRun]) -> None:
    """A column's metric is one that its task has; what depends on data and on maps of classes shows after a run."""
    for node in {node.column: node for node in nodes if plan.metric(node) and node.kind != "external"}.values():
        metric, config = plan.metric(node), node.config()
        own = protocol_class(config.protocol).metric if config.kind == "probe" else ""
        known = [own] if own else task_class(config.spec).test_metrics(config.spec.class_names)
        if metric not in known:
            raise SslMedError(
                f"columns.{node.column}.metric={metric}: is no test metric of {config.name}{nearest(metric, known)}"
            )


def _check_collapsed(plan: Plan, finals: Sequence[PlannedRun]) -> None:
    """A bound judges something: a collapsed run is one whose metric ends too low."""
    nodes = {node.column: node for node in finals if node.kind not in ("external", "features")}
    metrics = {column: plan.metric(node) or _own_metric(plan, node) for column, node in nodes.items()}
    judged = [column for column, metric in metrics.items() if metric_of(metric).higher_is_better]
    if plan.table.collapsed_below and metrics and not judged:
        told = ", ".join(dict.fromkeys(metrics.values()))
        raise SslMedError(
            f"tables/{plan.name}.yaml: collapsed_below judges metrics that are better when they are higher, and no column "
            f"has one ({told}); leave it out"
        )


def _own_metric(plan: Plan, node: PlannedRun) -> str:
    config = plan.config(node)
    own = protocol_class(config.protocol).metric if config.kind == "probe" else ""
    return own or task_class(config.spec).metric


def _check_one_network(plan: Plan, finals: Sequence[PlannedRun]) -> None:
    """Rows from scratch have the network that pretrained weights keep, which a task, a recipe or a trainer may change.

    Rows whose own settings choose a network are left out, and so are rows that start from a file.
    """
    rows = plan.table.rows
    tuned = [node for node in finals if node.kind == "finetune" and "backbone" not in rows[node.row].settings]
    begun = [node for node in tuned if node.needs and not rows[node.row].init]
    pretrained = {node.column: plan.config(node.needs[0]).backbone for node in begun}
    for node in tuned:
        row = rows[node.row]
        if row.method or row.init or "backbone" in row.transfer or node.column not in pretrained:
            continue
        mine, theirs = plan.config(node).backbone, pretrained[node.column]
        if mine != theirs:
            raise SslMedError(
                f"tables/{plan.name}.yaml: row {node.row} of column {node.column} would be trained with {_words(mine)}, and "
                f"pretrained rows have {_words(theirs)}; say which network all rows take, settings.backbone.name and its sizes"
            )


def _words(config: BackboneConfig) -> str:
    plain = to_plain(config)
    return " ".join(f"{key}={value}".replace(" ", "") for key, value in plain.items() if key != "init")
