"""A declared comparison expanded into the runs that it needs, each named by its resolved config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.comparison.overrides import TOLD, check_texts, family_of, flatten, for_probe, grid, told, with_setting
from experiments.comparison.table import RowConfig, SourceConfig, TableConfig
from experiments.comparison.trees import Tree, merge
from experiments.config.external import compose_external
from experiments.config.finetuned import FinetunedRun
from experiments.config.kinds import RunConfig
from experiments.config.protocols import FEATURES, needs_task
from experiments.config.run import compose_features, compose_finetune, compose_pretrain, compose_probe
from experiments.config.sections import SCRATCH, LoadingConfig
from experiments.config.sources import keys_of
from ssl_med.config import COMMAND_LINE
from ssl_med.reports.run_folder import Run, read_run
from ssl_med.spec import SslMedError
from ssl_med.values import spell

Role = Literal["pretrain", "tune", "final"]


@dataclass(frozen=True)
class PlannedRun:
    """One run: what it is for, the overrides that start it, and the nodes that must be done before."""

    role: Role
    row: str
    column: str
    fraction: float
    seed: int
    overrides: tuple[str, ...]
    needs: tuple[PlannedRun, ...] = ()
    choice: tuple[tuple[str, Any], ...] = ()

    @property
    def kind(self) -> str:
        """Command that runs it: pretrain, finetune, probe, external or features."""
        if self.role == "pretrain":
            return "pretrain"
        if any(need.role == "final" for need in self.needs):
            return "external"
        words = {override.partition("=")[0] for override in self.overrides}
        return "features" if "kind" in words else "probe" if "protocol" in words else "finetune"

    @property
    def name(self) -> str:
        """For people."""
        if self.role == "pretrain":
            return f"pretrain {self.row}{f' for {self.column}' if self.column else ''}, seed {self.seed}"
        tried = " ".join(f"{key}={value}" for key, value in self.choice)
        budget = f" at {100 * self.fraction:g} %" if self.fraction < 1 else ""
        return f"{self.column}{budget}: {self.row}, seed {self.seed}" + (
            f", trial {tried}" if self.role == "tune" else ""
        )

    def config(self) -> RunConfig:
        """Its resolved config; of an external test before what it tests was trained, too."""
        if self.kind == "external":
            trained = compose_finetune(self.needs[0].overrides, shared=True)
            try:
                return compose_external(self.overrides, FinetunedRun.planned(Path(self.overrides[0]), trained))
            except SslMedError as error:
                raise SslMedError(f"{self.name}: {error}") from None
        compose = _COMPOSE[self.kind]
        try:
            config = compose(self.overrides, shared=True)
            check_texts(config, self.overrides)
            return config
        except SslMedError as error:
            raise SslMedError(f"{self.name}: {error}") from None


_COMPOSE: dict[str, Callable[..., RunConfig]] = {
    "pretrain": compose_pretrain,
    "finetune": compose_finetune,
    "probe": compose_probe,
    "features": compose_features,
}


class Plan:
    """A table's runs below one folder.

    Args:
        name: of the table.
        config: its declaration.
        out: the folder.
        roots: folders of the data sets.
        stores: their stores.
        scale: 'small' where the small form of the table is laid over it.
        elsewhere: other machines than this one carry the runs out, so that folders must not be named by what
            `trainer.precision=auto` means here; each run decides on its own machine and records what it decided.

    Raises:
        SslMedError: the folder of a data set is not named; all that are missing at once.
    """

    def __init__(
        self,
        name: str,
        config: TableConfig,
        *,
        out: Path,
        roots: Mapping[str, str],
        stores: Mapping[str, str],
        scale: str = "full",
        elsewhere: bool = False,
    ) -> None:
        self.name, self.table, self.out = name, config, out
        self.roots, self.stores, self.scale, self.elsewhere = roots, stores, scale, elsewhere
        self._folders: dict[tuple[str, ...], Path] = {}
        missing = [root for root in root_names(config) if root not in roots]
        if missing:
            what = "folder" if len(missing) == 1 else "folders"
            raise SslMedError(
                f"table {name}: needs the {what} of {', '.join(missing)}; say {' '.join(f'root.{x}=DIR' for x in missing)}, or "
                "set SSL_MED_DATA to the folder that holds them"
            )

    # --- nodes ---------------------------------------------------------------------------------------------------

    def pretrainings(self) -> list[PlannedRun]:
        """Each pretraining once, in the order of the rows, all rows of a seed before the next seed."""
        found: dict[Path, PlannedRun] = {}
        for seed in self.table.pretrain.seeds:
            for label, row in self.table.rows.items():
                for column, config in self.table.columns.items() if row.method else ():
                    if config.tests:
                        continue
                    node = self._pretraining(label, column, seed)
                    found.setdefault(self.folder(node), node)
        return list(found.values())

    def trials(self) -> list[PlannedRun]:
        """Runs that choose settings: every row of a column has the same grid."""
        return [
            self._run("tune", row, column, self.table.tune.fraction, seed, choice)
            for column, config in self.table.columns.items()
            if config.tune
            for seed in self.table.tune.seeds
            for row in self.table.rows
            for choice in grid(config.tune)
        ]

    def finals(self, choices: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[PlannedRun]:
        """Runs behind the cells, of each (row, column) that has its choice or needs none.

        Seeds come outermost: a table that is stopped early has few seeds of everything and not all seeds of little.
        """
        return [
            self._final(row, column, fraction, seed, choices)
            for seed in self.table.seeds
            for column, config in self.table.columns.items()
            for fraction in config.fractions
            for row in self.table.rows
            if (row, self.table.trained(column)) in choices or not self.table.columns[self.table.trained(column)].tune
        ]

    def folder(self, node: PlannedRun) -> Path:
        """Where a node's run lives: named by the hash of its config."""
        if node.overrides not in self._folders:
            config = self.config(node)
            name = config.name.replace("/", "-")
            self._folders[node.overrides] = self.out / node.role / f"{name}-{config.hash(planned=self.elsewhere)}"
        return self._folders[node.overrides]

    def config(self, node: PlannedRun) -> RunConfig:
        """Composes a run; the table says what its overrides are, so it is named in place of the command line."""
        try:
            return node.config()
        except SslMedError as error:
            text = str(error)
            own = f"{COMMAND_LINE}: "
            raise SslMedError(f"tables/{self.name}.yaml: {text.replace(own, '', 1)}" if own in text else text) from None

    def run(self, node: PlannedRun, *, tables: bool = False) -> Run:
        """The run of a node as its folder tells it, judged by the metric of the column; `tables`: see `read_run`."""
        return read_run(self.folder(node), metric=self.metric(node), tables=tables)

    def metric(self, node: PlannedRun) -> str:
        """The metric that the node's column asks for; "": that of its task."""
        return "" if node.role == "pretrain" else self.table.columns[node.column].metric

    def lacks(self, node: PlannedRun) -> str:
        """Which file of weights a run needs that is not there, and where to get it; "" where it has all."""
        row = self.table.rows[node.row]
        if not row.init or Path(row.init).exists() or self._is_begun(node):
            return ""
        from ssl_med.weights.core.find import absent  # torch takes seconds to import

        return absent(Path(row.init), row.family)

    def _is_begun(self, node: PlannedRun) -> bool:
        """Whether a run before this one is done, and with it what a file of weights was for."""
        return any(not self.run(need).problem or self._is_begun(need) for need in node.needs)

    def command(self, node: PlannedRun) -> tuple[str, ...]:
        """All overrides of its run, the folder included."""
        return (*node.overrides, f"out={self.folder(node)}")

    def _pretraining(self, label: str, column: str, seed: int) -> PlannedRun:
        row, own = self.table.rows[label], self.table.columns[column].pretrain
        data, root, settings = self.table.origin(label, column)
        layers = (self.table.settings, settings, {"data": self._data(root)})
        overrides = (f"method={row.method}", f"data={data}", *self._trainer(), *flatten(self._merged(*layers)))
        overrides = (*overrides, *_start(row), f"seed={seed}")
        return PlannedRun("pretrain", label, column if own != SourceConfig() else "", 1.0, seed, overrides)

    def _run(
        self, role: Role, label: str, column: str, fraction: float, seed: int, choice: tuple[tuple[str, Any], ...]
    ) -> PlannedRun:
        table, row, wanted = self.table, self.table.rows[label], self.table.columns[column]
        settings = self._merged(table.settings, wanted.settings, row.transfer)
        for key, value in choice:
            settings = with_setting(settings, key, value)
        labelled, analysed = needs_task(wanted.protocol), wanted.protocol.startswith(FEATURES)
        if labelled and not analysed:
            settings = with_setting(settings, "labels.fraction", fraction)
        if role == "tune":
            # trials never see the test part; pretraining may have seen, unlabelled, the training subjects that choose
            settings = with_setting(
                with_setting(settings, "data.tuning_share", table.tune.share), "data.allow_overlap", True
            )
        needs: tuple[PlannedRun, ...] = ()
        begin = _start(row) or (f"init={SCRATCH}",)
        if row.method:
            seeds = table.pretrain.seeds
            place = (table.tune.seeds if role == "tune" else table.seeds).index(seed)
            needs = (self._pretraining(label, column, seeds[place % len(seeds)]),)
            begin = (f"init={self.folder(needs[0])}",)
        start = [f"{'task' if labelled else 'data'}={wanted.task}", *self._trainer()]
        family = family_of(wanted.task) if labelled else wanted.task
        settings = self._merged(settings, {"data": self._data(wanted.root or family)})
        if wanted.protocol == "finetune" and table.recipe:
            start.append(f"recipe={table.recipe}")
        if wanted.protocol != "finetune":
            kind = wanted.protocol.removeprefix(FEATURES)
            start.append(f"kind={kind}" if analysed else f"protocol={wanted.protocol}")
            settings = for_probe(settings, without=("labels", "probe") if analysed else ())
        start += flatten(settings)
        overrides = (*start, *begin, f"seed={seed}")
        return PlannedRun(role, label, column, fraction, seed, overrides, needs, choice)

    def _final(
        self, row: str, column: str, fraction: float, seed: int, choices: Mapping[tuple[str, str], Mapping[str, Any]]
    ) -> PlannedRun:
        trained = self.table.trained(column)
        choice = tuple(choices.get((row, trained), {}).items())
        node = self._run("final", row, trained, fraction, seed, choice)
        return self._external(node, column) if trained != column else node

    def _external(self, trained: PlannedRun, column: str) -> PlannedRun:
        """The test of a fine-tuning on another data set, which prepares data as the training did."""
        wanted = self.table.columns[column]
        loading = {
            key: value for key, value in self.table.settings.get("trainer", {}).items() if key in keys_of(LoadingConfig)
        }
        data = self._data(wanted.root or family_of(wanted.task))
        settings = self._merged({"trainer": loading}, wanted.settings, {"data": data})
        named = [override for key in TOLD for override in told(key, settings.pop(key, None))]
        overrides = (str(self.folder(trained)), f"task={wanted.task}", *self._trainer(), *named, *flatten(settings))
        return PlannedRun("final", trained.row, column, trained.fraction, trained.seed, overrides, (trained,))

    def _trainer(self) -> tuple[str, ...]:
        return (f"trainer={self.table.trainer}",) if self.table.trainer else ()

    # --- settings ------------------------------------------------------------------------------------------------

    def _data(self, root: str) -> Tree:
        found: Tree = {"root": self.roots[root]}
        return found | ({"store": self.stores[root]} if root in self.stores else {})

    def _merged(self, *trees: Tree) -> Tree:
        found: Tree = {}
        for tree in trees:
            found = merge(found, tree)
        return found


def _start(row: RowConfig) -> tuple[str, ...]:
    """Overrides for the file that a row starts from; none without one."""
    return tuple(f"{key}={value}" for key, value in (("init", row.init), ("family", row.family)) if value)


def besides(node: PlannedRun, table: str) -> tuple[str, ...]:
    """Overrides that change no result: a run of a table knows its name, and shows no bar."""
    named = () if node.kind == "external" else (f"tracking.table={spell(table[:58])}",)
    return ("trainer.progress=false", *named)


def root_names(table: TableConfig) -> list[str]:
    """Names of all data folders that a table needs, as `root.NAME=DIR` spells them."""
    found: dict[str, None] = {}
    for name, column in table.columns.items():
        for label, row in table.rows.items():
            if row.method and not column.tests:
                found[table.origin(label, name)[1]] = None
        labelled = needs_task(column.protocol)
        found[column.root or (family_of(column.task) if labelled else column.task)] = None
    return list(found)
