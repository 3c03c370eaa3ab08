"""A declared comparison (tables/NAME.yaml) expanded into the runs that it needs, each named by its resolved config."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from experiments.compose import PASS, RunConfig, compose_finetune, compose_pretrain, compose_probe
from experiments.layers import CONF, names
from experiments.settings import SCRATCH
from ssl_med.catalogue import nearest
from ssl_med.config import Layer, build, parse_words, read_yaml
from ssl_med.spec import SslMedError

TABLES = Path(__file__).parent / "tables"
Tree = dict[str, Any]
Role = Literal["pretrain", "tune", "final"]


@dataclass
class RowConfig:
    """One line of a table: where the weights come from."""

    method: str = ""
    """pretraining method or preset; empty: none"""
    init: str = ""
    """backbone file to start from in place of a pretraining"""
    settings: Tree = field(default_factory=dict)
    """of its pretraining"""
    transfer: Tree = field(default_factory=dict)
    """of its fine-tunings and probes; what differs between rows is listed under the table"""


@dataclass
class ColumnConfig:
    """One task by one protocol at some label budgets."""

    task: str = ""
    """name in conf/task"""
    protocol: str = "finetune"
    """finetune, or a protocol of `ssl-med probe`"""
    settings: Tree = field(default_factory=dict)
    """of its runs"""
    root: str = ""
    """name of the data folder, root.NAME=DIR on the command line; empty: the family's name"""
    fractions: tuple[float, ...] = (1.0,)
    """shares of the labelled training subjects"""
    tune: dict[str, list[Any]] = field(default_factory=dict)
    """key -> values to choose among for each row by itself: optim.lr: [1e-3, 3e-3]; all combinations are tried"""


@dataclass
class PretrainConfig:
    """What the pretrainings of a table share."""

    data: str = ""
    """family"""
    root: str = ""
    """name of the data folder, as for a column"""
    seeds: tuple[int, ...] = (0,)
    """pretrainings of each row; run k of a column starts from number k modulo their count"""
    settings: Tree = field(default_factory=dict)
    """of all pretrainings"""


@dataclass
class TuneConfig:
    """How settings are chosen, with the same effort for every row; never on test subjects."""

    share: float = 0.2
    """of the training subjects that choose where there is no validation part"""
    fraction: float = 1.0
    """label budget of the trials; what they choose serves all budgets of the column"""
    seeds: tuple[int, ...] = (1000,)
    """of the trials, apart from those of the results"""


@dataclass
class TableConfig:
    """tables/NAME.yaml."""

    title: str = ""
    """caption"""
    source: str = ""
    """paper and number of the table or figure; empty: a study of our own"""
    protocol: str = ""
    """what was fixed before a result was seen, for the reader"""
    baseline: str = SCRATCH
    """row that the others are compared with"""
    test: Literal["sign_flip", "paired_t", "welch_t", "wilcoxon"] = "sign_flip"
    """test of each row against the baseline over seeds; Holm over all comparisons of the table"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """of the runs behind each cell"""
    trainer: str = ""
    """name in conf/trainer for every run"""
    settings: Tree = field(default_factory=dict)
    """of every run"""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """what the pretrainings share"""
    rows: dict[str, RowConfig] = field(default_factory=dict)
    """label -> where its weights come from"""
    columns: dict[str, ColumnConfig] = field(default_factory=dict)
    """label -> task, protocol, budgets"""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """how what `tune` of a column names is chosen"""
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    """row -> column, or column@fraction -> the paper's number"""
    collapsed_below: float = 0.0
    """a run whose metric ends below this counts as collapsed; such runs stay in the table and are counted"""

    def __post_init__(self) -> None:
        for key in ("rows", "columns", "seeds"):
            if not getattr(self, key):
                raise SslMedError(f"the table has no {key}")
        if self.baseline not in self.rows:
            raise SslMedError(f"baseline '{self.baseline}' is no row{nearest(self.baseline, list(self.rows))}")
        for label, row in self.rows.items():
            if row.method and row.init:
                raise SslMedError(f"rows.{label}: has both a method and an init; keep one")
            if row.method and not self.pretrain.data:
                raise SslMedError(f"rows.{label}: is pretrained, and pretrain.data names no data set")
        if not self.pretrain.seeds:
            raise SslMedError("pretrain.seeds is empty; give one seed or more")


@dataclass(frozen=True)
class Node:
    """One run: what it is for, the words that start it, and the nodes that must be done before."""

    role: Role
    row: str
    column: str
    fraction: float
    seed: int
    words: tuple[str, ...]
    needs: tuple[Node, ...] = ()
    choice: tuple[tuple[str, Any], ...] = ()

    @property
    def kind(self) -> str:
        """Command that runs it: pretrain, finetune or probe."""
        if self.role == "pretrain":
            return "pretrain"
        return "probe" if any(word.startswith("protocol=") for word in self.words) else "finetune"

    @property
    def name(self) -> str:
        """For people."""
        if self.role == "pretrain":
            return f"pretrain {self.row}, seed {self.seed}"
        tried = " ".join(f"{key}={value}" for key, value in self.choice)
        budget = f" at {100 * self.fraction:g} %" if self.fraction < 1 else ""
        return f"{self.column}{budget}: {self.row}, seed {self.seed}" + (f", trial {tried}" if tried else "")

    def config(self) -> RunConfig:
        """Its resolved config."""
        compose = {"pretrain": compose_pretrain, "finetune": compose_finetune, "probe": compose_probe}[self.kind]
        try:
            return compose(self.words)
        except SslMedError as error:
            raise SslMedError(f"{self.name}: {error}") from None


class Matrix:
    """A table's runs below one folder."""

    def __init__(
        self, name: str, config: TableConfig, *, out: Path, roots: Mapping[str, str], stores: Mapping[str, str]
    ) -> None:
        self.name, self.table, self.out = name, config, out
        self.roots, self.stores = roots, stores
        self._folders: dict[tuple[str, ...], Path] = {}

    # --- nodes ---------------------------------------------------------------------------------------------------

    def pretrainings(self) -> list[Node]:
        """Each pretraining once, in the order of the rows, all rows of a seed before the next seed."""
        found: dict[str, Node] = {}
        for seed in self.table.pretrain.seeds:
            for label, row in self.table.rows.items():
                if row.method:
                    node = self._pretraining(label, seed)
                    found.setdefault(self.folder(node).name, node)
        return list(found.values())

    def trials(self) -> list[Node]:
        """Runs that choose settings: every row of a column has the same grid."""
        return [
            self._run("tune", row, column, self.table.tune.fraction, seed, choice)
            for column, config in self.table.columns.items()
            if config.tune
            for seed in self.table.tune.seeds
            for row in self.table.rows
            for choice in grid(config.tune)
        ]

    def finals(self, choices: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Node]:
        """Runs behind the cells, of each (row, column) that has its choice or needs none.

        Seeds come outermost: a table that is stopped early has few seeds of everything and not all seeds of little.
        """
        return [
            self._run("final", row, column, fraction, seed, tuple(choices.get((row, column), {}).items()))
            for seed in self.table.seeds
            for column, config in self.table.columns.items()
            for fraction in config.fractions
            for row in self.table.rows
            if not config.tune or (row, column) in choices
        ]

    def folder(self, node: Node) -> Path:
        """Where a node's run lives: named by the hash of its config."""
        if node.words not in self._folders:
            config = node.config()
            name = config.name.replace("/", "-")
            self._folders[node.words] = self.out / node.role / f"{name}-{config.hash()}"
        return self._folders[node.words]

    def command(self, node: Node) -> tuple[str, ...]:
        """All words of its run, the folder included."""
        return (*node.words, f"out={self.folder(node)}")

    def _pretraining(self, label: str, seed: int) -> Node:
        shared, row = self.table.pretrain, self.table.rows[label]
        where = self._data(shared.root or shared.data)
        settings = self._merged(self.table.settings, shared.settings, row.settings, {"data": where})
        words = (f"method={row.method}", f"data={shared.data}", *self._trainer(), *flatten(settings), f"seed={seed}")
        return Node("pretrain", label, "", 1.0, seed, words)

    def _run(
        self, role: Role, label: str, column: str, fraction: float, seed: int, choice: tuple[tuple[str, Any], ...]
    ) -> Node:
        table, row, wanted = self.table, self.table.rows[label], self.table.columns[column]
        settings = self._merged(table.settings, wanted.settings, row.transfer)
        for key, value in choice:
            settings = _set(settings, key, value)
        pretext = wanted.protocol.startswith("pretext")
        if not pretext:
            settings = _set(settings, "labels.fraction", fraction)
        if role == "tune":
            # trials never see the test part; pretraining may have seen, unlabelled, the training subjects that choose
            settings = _set(_set(settings, "data.tuning_share", table.tune.share), "data.allow_overlap", True)
        needs: tuple[Node, ...] = ()
        init = row.init or SCRATCH
        if row.method:
            seeds = table.pretrain.seeds
            place = (table.tune.seeds if role == "tune" else table.seeds).index(seed)
            needs = (self._pretraining(label, seeds[place % len(seeds)]),)
            init = str(self.folder(needs[0]))
        start = [f"{'data' if pretext else 'task'}={wanted.task}", *self._trainer()]
        family = wanted.task if pretext else family_of(wanted.task)
        settings = self._merged(settings, {"data": self._data(wanted.root or family)})
        if wanted.protocol != "finetune":
            start.append(f"protocol={wanted.protocol}")
            settings = _for_probe(settings)
        words = (*start, *flatten(settings), f"init={init}", f"seed={seed}")
        return Node(role, label, column, fraction, seed, words, needs, choice)

    def _trainer(self) -> tuple[str, ...]:
        return (f"trainer={self.table.trainer}",) if self.table.trainer else ()

    # --- settings ------------------------------------------------------------------------------------------------

    def _data(self, root: str) -> Tree:
        if root not in self.roots:
            raise SslMedError(f"table {self.name}: needs the folder of {root}; say root.{root}=DIR")
        found: Tree = {"root": self.roots[root]}
        return found | ({"store": self.stores[root]} if root in self.stores else {})

    def _merged(self, *trees: Tree) -> Tree:
        found: Tree = {}
        for tree in trees:
            found = merge(found, tree)
        return found


def load_table(name: str, words: Sequence[str], *, scale: str) -> TableConfig:
    """tables/NAME.yaml or a path, with its part `small` laid over it for scale=small and words of the line over that."""
    path = Path(name) if name.endswith(".yaml") else TABLES / f"{name}.yaml"
    if not path.is_file():
        raise SslMedError(f"table '{name}' is unknown{nearest(name, tables())}")
    layer = read_yaml(path, f"tables/{path.name}")
    tree = dict(layer.tree)
    small = tree.pop("small", None)
    if scale == "small":
        if not isinstance(small, dict):
            raise SslMedError(f"{layer.source}: has no part 'small'; leave scale=small out")
        tree = merge(tree, small)
    tree = merge(tree, parse_words(words).tree)
    for part in ("rows", "columns"):  # null takes a line out
        if isinstance(tree.get(part), dict):
            tree[part] = {key: value for key, value in tree[part].items() if value is not None}
    return build(TableConfig, [Layer(layer.source, tree)], prefix="")


def tables() -> list[str]:
    """What table= can be."""
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def grid(tune: Mapping[str, Sequence[Any]]) -> Iterator[tuple[tuple[str, Any], ...]]:
    """All combinations of the values of each key."""
    if not tune:
        yield ()
        return
    *rest, last = tune
    for head in grid({key: tune[key] for key in rest}):
        for value in tune[last]:
            yield (*head, (last, value))


def merge(below: Tree, above: Tree) -> Tree:
    """`above` laid over `below`, mappings key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def flatten(tree: Tree, prefix: str = "") -> list[str]:
    """A tree of settings as words of the command line."""
    words = []
    for key, value in tree.items():
        if isinstance(value, dict):
            words += flatten(value, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key}={json.dumps(value)}")
    return words


def family_of(task: str) -> str:
    """Data set that a task is on."""
    if task not in names("task"):
        raise SslMedError(f"task '{task}' is unknown{nearest(task, names('task'))}")
    path = CONF / "task" / f"{task}.yaml"
    return str(read_yaml(path, f"conf/task/{path.name}").section("data").tree["name"])


def _for_probe(settings: Tree) -> Tree:
    """Without what a probe has no use for."""
    kept = {key: value for key, value in settings.items() if key not in ("optim", "tracking", "trainer", "transfer")}
    passed = {key: value for key, value in settings.get("trainer", {}).items() if key in PASS}
    return kept | ({"trainer": passed} if passed else {})


def _set(tree: Tree, key: str, value: Any) -> Tree:
    first, dot, rest = key.partition(".")
    return merge(tree, {first: _set({}, rest, value) if dot else value})
