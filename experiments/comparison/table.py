"""tables/NAME.yaml: what a comparison declares, and how a table, its small form and the command line are laid together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from experiments.comparison.own_settings import check_settings
from experiments.comparison.trees import Tree, merge, varied, without_nulls
from experiments.config.protocols import FEATURES, needs_task
from experiments.config.sections import SCRATCH
from ssl_med.catalogue import list_names, nearest
from ssl_med.config import Layer, build, parse_overrides, read_yaml
from ssl_med.evaluation.metrics import metric_of
from ssl_med.ranges import BelowOne, PositiveShare, Range, Seed, Share, StoredValue
from ssl_med.spec import SslMedError
from ssl_med.values import is_null

_WEIGHTS = "ssl_med.weights"
TABLES = Path(__file__).parents[1] / "tables"


@dataclass
class RowConfig:
    """One line of a table: where the weights come from."""

    method: str = ""
    """pretraining method or preset; empty: none"""
    init: str = ""
    """backbone file, or file of weights from elsewhere, to start from in place of a pretraining; with a method, its pretraining
    starts there"""
    family: str = ""
    """whose weights from elsewhere `init` holds (ssl-med list families); where it is not there the cell says where to get it"""
    data: str = ""
    """family that this row is pretrained on; empty: that of the column or the table"""
    root: str = ""
    """name of its folder, as for a column"""
    settings: Tree = field(default_factory=dict)
    """settings of its pretraining"""
    transfer: Tree = field(default_factory=dict)
    """settings of its fine-tunings and probes; what differs between rows is listed under the table"""


@dataclass
class SourceConfig:
    """Data of pretrainings, and their settings."""

    data: str = ""
    """family"""
    root: str = ""
    """name of the data folder, as for a column"""
    settings: Tree = field(default_factory=dict)
    """settings of the pretrainings"""


@dataclass
class PretrainConfig(SourceConfig):
    """What the pretrainings of a table share."""

    seeds: tuple[Seed, ...] = (0,)
    """pretrainings of each row; run k of a column starts from number k modulo their count"""


@dataclass
class ColumnConfig:
    """One task by one protocol at some label budgets.

    In a file, `vary: {LABEL: {...}, ...}` makes a column 'NAME LABEL' of each entry, laid over the rest of the column.
    """

    task: str = ""
    """name in conf/task; of a protocol without labels: family"""
    protocol: str = "finetune"
    """finetune, a protocol of `ssl-med probe`, or features/KIND for an analysis of `ssl-med features`"""
    tests: str = ""
    """another column, whose fine-tunings are tested on `task` without training; settings: of `ssl-med external`"""
    metric: str = ""
    """test metric of the cells, by which settings are chosen and rows compared; empty: the task's own"""
    settings: Tree = field(default_factory=dict)
    """settings of its runs"""
    root: str = ""
    """name of the data folder, root.NAME=DIR on the command line; empty: the family's name"""
    fractions: tuple[PositiveShare, ...] = (1.0,)
    """shares of the labelled training subjects"""
    tune: dict[str, list[Any]] = field(default_factory=dict)
    """key -> values to choose from, separately for each row: optim.lr: [1e-3, 3e-3]; all combinations are tried"""
    pretrain: SourceConfig = field(default_factory=SourceConfig)
    """what pretrainings for this column have otherwise than those of the table"""
    series: str = ""
    """columns 'SERIES ...' that the report also draws as one curve, in their order; `vary` sets it"""


@dataclass
class TuneConfig:
    """How settings are chosen, with the same effort for every row; never on test subjects."""

    share: BelowOne = 0.2
    """share of the training subjects held out to select settings where there is no validation part"""
    fraction: PositiveShare = 1.0
    """label budget of the trials; what they choose serves all budgets of the column"""
    seeds: tuple[Seed, ...] = (1000,)
    """seeds of the trials, other ones than those of the results"""


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
    seeds: tuple[Seed, ...] = (0, 1, 2, 3, 4, 5)
    """seeds of the runs behind each cell"""
    trainer: str = ""
    """name in conf/trainer for every run"""
    recipe: str = ""
    """name in conf/recipe for every fine-tuning; empty: the tasks' own protocols, as tables of papers need them"""
    settings: Tree = field(default_factory=dict)
    """settings of every run"""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """what the pretrainings share"""
    rows: dict[str, RowConfig] = field(default_factory=dict)
    """label -> where its weights come from"""
    columns: dict[str, ColumnConfig] = field(default_factory=dict)
    """label -> task, protocol, budgets"""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """how what `tune` of a column names is chosen"""
    published: dict[str, dict[str, StoredValue]] = field(default_factory=dict)
    """row -> column, or column@fraction -> the paper's number, in the unit of our metric: 0.8 for 80 %"""
    published_p: dict[str, dict[str, Share]] = field(default_factory=dict)
    """row -> column, as in published: the paper's p-value of that row against the best other one"""
    collapsed_below: Annotated[float, Range(-1e9, 1e9)] = 0.0
    """a run whose metric ends below this counts as collapsed, where higher is better; such runs stay in and are counted"""

    def __post_init__(self) -> None:
        check_settings(self)
        for key in ("rows", "columns", "seeds"):
            if not getattr(self, key):
                raise SslMedError(f"the table has no {key}")
        if self.baseline not in self.rows:
            raise SslMedError(f"baseline '{self.baseline}' is no row{nearest(self.baseline, list(self.rows))}")
        for label, row in self.rows.items():
            if row.family and not row.init:
                raise SslMedError(f"rows.{label}: has a family and no init; say init=FILE, or leave the family out")
            if row.family and row.family not in (known := list_names(_WEIGHTS)):
                raise SslMedError(f"rows.{label}.family: '{row.family}' is unknown{nearest(row.family, known)}")
            for name, column in self.columns.items() if row.method else ():
                if not column.tests and not self.origin(label, name)[0]:
                    raise SslMedError(f"rows.{label}: is pretrained, and pretrain.data names no data set")
        for name, column in self.columns.items():
            if column.tests:
                self._check_external(name, column)
            if column.metric:
                try:
                    metric_of(column.metric)
                except SslMedError as error:
                    raise SslMedError(f"columns.{name}.metric={error}") from None
            if not column.fractions:
                raise SslMedError(f"columns.{name}.fractions is empty; give one share or more")
            analysed = column.protocol.startswith(FEATURES)
            if analysed and (column.metric or column.tune):
                raise SslMedError(
                    f"columns.{name}: an analysis of features has no score to choose by; leave metric and tune out"
                )
            if (analysed or not needs_task(column.protocol)) and column.fractions != (1.0,):
                raise SslMedError(
                    f"columns.{name}: protocol {column.protocol} trains on no labels; leave fractions out"
                )
            for key, values in column.tune.items():
                if not values:
                    raise SslMedError(f"columns.{name}.tune.{key} is empty; give values to choose among")
        if not self.pretrain.seeds:
            raise SslMedError("pretrain.seeds is empty; give one seed or more")

    def _check_external(self, name: str, column: ColumnConfig) -> None:
        where = f"columns.{name}"
        other = self.columns.get(column.tests)
        if other is None:
            raise SslMedError(
                f"{where}.tests: '{column.tests}' is no column{nearest(column.tests, list(self.columns))}"
            )
        if other.tests or other.protocol != "finetune":
            raise SslMedError(f"{where}.tests: '{column.tests}' trains no network; name a column of protocol finetune")
        own = column.protocol != "finetune" or column.tune or column.pretrain != SourceConfig()
        if own or column.fractions not in ((1.0,), other.fractions):
            raise SslMedError(
                f"{where}: tests what '{column.tests}' trained; protocol, tune, pretrain and fractions belong there"
            )
        column.fractions = other.fractions

    def trained(self, column: str) -> str:
        """The column whose runs train the weights that `column` tests: mostly itself."""
        return self.columns[column].tests or column

    def origin(self, row: str, column: str) -> tuple[str, str, Tree]:
        """Family that a row is pretrained on for a column, the name of its folder, and the settings.

        The row says more than the column, and that more than the table; `data` settings for another family do not count.
        """
        data, root = "", ""
        settings: Tree = {}
        for place in (self.pretrain, self.columns[column].pretrain, self.rows[row]):
            if place.data and place.data != data:
                settings = {key: value for key, value in settings.items() if key != "data"}
            data, root = place.data or data, place.root or place.data or root
            settings = merge(settings, place.settings)
        return data, root, settings

    def cells(self) -> Iterator[tuple[str, str]]:
        """Row and column of every cell, as `published` spells them."""
        for row in self.rows:
            for name, column in self.columns.items():
                yield row, name
                yield from ((row, f"{name}@{fraction:g}") for fraction in column.fractions)


def load_table(name: str, overrides: Sequence[str], *, scale: str) -> TableConfig:
    """tables/NAME.yaml or a path, with its part `small` laid over it for scale=small and overrides of the line over that.

    `like: OTHER` lays a table over tables/OTHER.yaml; null takes a row, a column or published numbers out, or a key of a row or
    column back to its default. Published numbers of what is out are left out.

    Raises:
        SslMedError: no such table or small part, a wrong key or value, or a published number of the file's own without a cell.
    """
    source, own, tree = _read(name)
    small = tree.pop("small", None)
    declared = _build(source, tree)
    for key in ("published", "published_p"):
        _check_cells(source, key, own.get(key) or {}, declared)
    if scale == "small":
        if not isinstance(small, dict):
            raise SslMedError(f"{source}: has no part 'small'; leave scale=small out")
        tree = merge(tree, small)
        _build(source, tree)  # what is wrong from here on, the line is to blame for
    given = parse_overrides(overrides)
    table = _build(f"{given.source} over {source}" if given.tree else source, merge(tree, given.tree))
    kept = set(table.cells())
    for numbers in (table.published, table.published_p):
        for row, found in list(numbers.items()):
            numbers[row] = {column: value for column, value in found.items() if (row, column) in kept}
            if not numbers[row]:
                del numbers[row]
    return table


def tables() -> list[str]:
    """What table= can be."""
    return sorted(path.stem for path in TABLES.glob("*.yaml"))


def _read(name: str) -> tuple[str, Tree, Tree]:
    """How a file is called, its own tree, and that over the tree of the table that it is like."""
    path = Path(name) if name.endswith(".yaml") else TABLES / f"{name}.yaml"
    if not path.is_file():
        raise SslMedError(f"table '{name}' is unknown{nearest(name, tables())}")
    layer = read_yaml(path, f"tables/{path.name}")
    own = dict(layer.tree)
    other = own.pop("like", None)
    return layer.source, own, merge(_read(str(other))[2], own) if other else dict(own)


def _check_cells(source: str, key: str, numbers: Mapping[str, Mapping[str, float]], table: TableConfig) -> None:
    """Refuses a number for which there is no cell."""
    columns = dict.fromkeys(column for _, column in table.cells())
    for row, found in without_nulls(numbers).items():
        if row not in table.rows:
            raise SslMedError(f"{source}: {key}.{row} is no row{nearest(row, list(table.rows))}")
        for column in found:
            if column in columns:
                continue
            raise SslMedError(f"{source}: {key}.{row}: '{column}' is no column{nearest(column, list(columns))}")


def _build(source: str, tree: Tree) -> TableConfig:
    tree = dict(tree)
    for part in ("rows", "columns"):
        if isinstance(tree.get(part), dict):
            tree[part] = {key: without_nulls(value) for key, value in tree[part].items() if not is_null(value)}
    for part in ("published", "published_p"):
        tree[part] = without_nulls(tree.get(part) or {})
    if isinstance(tree.get("columns"), dict):
        tree["columns"] = dict(varied(tree["columns"]))
    return build(TableConfig, [Layer(source, tree)], prefix="")
