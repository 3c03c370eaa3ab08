"""What stands in a summary.json, by type: what the report and other commands read of a run that may be a stranger's.

Every key may be absent, for versions before this one left some out; further keys are free.
"""

from __future__ import annotations

from typing import Any, Literal, Required, TypedDict

FORMAT = 1  # raised when a key changes its meaning

Number = float | None  # null: not defined


class Labels(TypedDict, total=False):
    """The label budget: a share of the labelled training subjects, in (0, 1], and how many of how many these are."""

    fraction: float
    subjects: int | None
    of: int | None


class Leak(TypedDict, total=False):
    """Outcome of a comparison of who was trained on with who is tested on."""

    status: str
    subjects: dict[str, int]
    volumes: dict[str, int]
    why: str
    by: str


class Leaks(Leak, total=False):
    """Of an external test: of each training before it."""

    training: Leak | None
    pretraining: Leak | None


class Spec(TypedDict, total=False):
    """Data that a backbone was pretrained on; the rest of it is only shown."""

    name: str


class Card(TypedDict, total=False):
    """Card of the backbone that a run started from."""

    method: str
    method_config: dict[str, Any] | None
    starts: list[dict[str, Any]] | None
    spec: Spec | None
    steps: int | None
    seed: int | None
    subjects: list[str] | None


class Init(TypedDict, total=False):
    """Where the weights came from."""

    kind: str
    path: str | None
    method: str | None
    card: Card | None


class Transfer(TypedDict, total=False):
    """How weights met the task."""

    protocol: str


class Trained(TypedDict, total=False):
    """Of an external test: what the tested run was trained on."""

    run: str | None
    hash: str | None
    task: str
    data: str


class Classes(TypedDict, total=False):
    """Of an external test: which classes stand for which."""

    classes: dict[str, list[str]]
    unmapped_trained: list[str] | None


class Interval(TypedDict, total=False):
    """Of the headline metric over subjects."""

    low: Number
    high: Number
    reason: str | None


class Inside(TypedDict, total=False):
    """Of an external test: the in-domain test."""

    interval: Interval | None


class Curve(TypedDict, total=False):
    """Areas and counts of one class."""

    auc: Number
    average_precision: Number
    positives: int | None
    negatives: int | None


class Errors(TypedDict, total=False):
    """Numbers of the error analysis, by class."""

    curves: dict[str, Curve | None] | None
    ece: dict[str, Number] | None


class PicturedCase(TypedDict):
    """One picture of a test case."""

    file: str
    case: str
    why: str
    goodness: Number


class Drawn(TypedDict):
    """One figure of an analysis of features."""

    file: str
    title: str
    caption: str


class Online(TypedDict, total=False):
    """The online probe of a pretraining: both, or nothing."""

    task: str
    key: str


class Summary(TypedDict, total=False):
    """summary.json."""

    format: int
    kind: Required[Literal["pretrain", "finetune", "probe", "external", "features"]]
    status: str | None
    name: str | None
    hash: str | None
    seed: int
    data: str | None
    method: str | None
    task: str | None
    protocol: str | None
    recipe: str | None
    pieces: dict[str, Any] | None
    synthetic: bool | None
    backbone: dict[str, Any] | None
    network: dict[str, Any] | None
    config: dict[str, Any] | None
    hardware: str | None
    versions: dict[str, str] | None
    git: str | None
    peak_mb: Number
    weights: str | None
    steps: int | None
    seconds: Number
    metric: str | None
    metrics: dict[str, Number]
    n_test: int | None
    n_in_domain: int | None
    notes: list[str] | None
    labels: Labels | None
    leakage: Leaks | None
    init: Init | None
    transfer: Transfer | None
    trained_on: Trained | None
    tested_on: dict[str, Any] | None
    map: Classes | None
    interval: Interval | None
    in_domain: Inside | None
    errors: Errors | None
    pictures: list[PicturedCase] | None
    conventions: dict[str, str] | None
    online: Online | None
    analysis: str | None
    headline: str | None
    drawings: list[Drawn] | None
    images: dict[str, Any] | None
    networks: list[str] | None
