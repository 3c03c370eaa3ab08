"""The sections of a run config that belong to no library: trainer, tracking, labels, and the keys without a section."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from ssl_med.ranges import Count, Limit, Natural, NonNegative, PositiveShare, Processes, Range, Seed
from ssl_med.setting import SET, Affects, Other, setting
from ssl_med.spec import SslMedError

SCRATCH = "scratch"
_VALIDATED = {"validation": (True,)}


def _origin(init: str) -> str:
    """A run folder named by its hash is the same wherever it lies, so runs that start from it can move with it."""
    if init == SCRATCH:
        return init
    path = Path(init).resolve()
    return path.name if re.fullmatch(r".+-[0-9a-f]{8}", path.name) else str(path)


@dataclass
class LoadingConfig:
    """Where and in what portions samples go through a network: all of a trainer that a probe or a test needs."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """auto: a GPU where there is one"""
    batch_size: Annotated[int, Range(1, 2**20)] = 32
    """samples per batch over all devices"""
    precision: Literal["auto", "32", "bf16-mixed", "16-mixed"] = "32"
    """arithmetic of the forward pass; auto: bf16-mixed where the device that runs has units for it, else 32"""
    num_workers: Processes = setting(default=0, affects="nothing")
    """loader processes per device"""
    threads: Processes = setting(default=0, affects="nothing")
    """threads of the arithmetic on the processor; 0: torch's choice, a thread per core unless OMP_NUM_THREADS says otherwise"""
    progress: bool = setting(default=True, affects="nothing")
    """progress bar"""


@dataclass
class TrainerConfig(LoadingConfig):
    """How long, how wide, on what, and how often to look."""

    max_epochs: Limit = -1
    """-1: no limit; an epoch of volumes is crops_per_volume crops of each"""
    max_steps: Limit = -1
    """optimiser steps; -1: no limit"""
    accumulate: Annotated[int, Range(1, 2**20)] = 1
    """batches per optimiser step"""
    clip: NonNegative = 0.0
    """largest gradient norm; 0: no clipping"""
    devices: str = "auto"
    """number of devices per node, or auto"""
    num_nodes: Annotated[int, Range(1, 10**5)] = 1
    """number of machines"""
    strategy: str = "auto"
    """auto, ddp, ddp_spawn or another Lightning strategy"""
    sync_batchnorm: bool = setting(default=True, needs=({"devices": Other("1")}, {"num_nodes": Other(1)}))
    """with several devices: batch statistics over the global batch, so that the result does not depend on their number"""
    val_every_steps: Natural = setting(default=0, needs=_VALIDATED)
    """validate every so many batches; 0: after each epoch"""
    patience: Natural = setting(default=0, needs=_VALIDATED)
    """stop when the monitored value has not improved for so many validations, of an online probe: probes; 0: never"""
    monitor: str = setting(
        default="val/loss", needs=({**_VALIDATED, "select": ("best",)}, {**_VALIDATED, "patience": SET})
    )
    """value that names the best weights: of the validation (val/...), the collapse monitors or the online probe; whether
    higher or lower is better is declared in ssl_med/evaluation/metrics.py"""
    select: Literal["best", "last"] = setting(default="best", needs=_VALIDATED)
    """weights that leave the run: best validation, or the last"""
    test_every_steps: Natural = setting(default=0, needs={"run": ("finetune",)})
    """finetune: test every so many steps for a learning curve (curve/METRIC), on which nothing is chosen; 0: never"""
    checkpoint_every_steps: Count = setting(default=500, affects="nothing")
    """write last.ckpt every so many steps, besides each validation and the end"""
    collapse_patience: Natural = setting(default=20, affects="nothing", needs={"run": ("pretrain",)})
    """pretraining: stop when the features have been collapsed in so many monitors (one each log_every steps); 0: never"""
    log_every: Count = setting(default=10, affects="nothing")
    """steps between lines of metrics.jsonl"""
    channels_last: bool = False
    """memory format of the network's convolutions"""

    def __post_init__(self) -> None:
        if self.max_epochs < 0 and self.max_steps < 0:
            raise SslMedError("trainer: no end is set; give trainer.max_epochs=N or trainer.max_steps=N")
        if self.test_every_steps and (self.select == "best" or self.patience):
            raise SslMedError(
                "trainer.test_every_steps looks at the test part during training, so nothing may be chosen on the way; "
                "set trainer.select=last and trainer.patience=0"
            )
        if self.devices != "auto" and not re.fullmatch(r"[1-9]\d{0,4}", self.devices, re.ASCII):
            raise SslMedError(f"trainer.devices is '{self.devices}'; give a number of devices or auto")


MODES = ("off", "offline", "online")  # of tracking.wandb, the strictest first
# W&B's own words in WANDB_MODE
_WORDS = {
    "disabled": "off",
    "offline": "offline",
    "dryrun": "offline",
    "online": "online",
    "run": "online",
    "shared": "online",
}


def environment_mode() -> str:
    """What WANDB_MODE or WANDB_DISABLED asks for, in words of `MODES`; "" where they are not set."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "off"
    word = os.environ.get("WANDB_MODE", "").strip().lower()
    if word and word not in _WORDS:
        raise SslMedError(f"WANDB_MODE={word}: is no mode of W&B; say online, offline or disabled, or unset it")
    return _WORDS.get(word, "")


@dataclass
class TrackingConfig:
    """Where metrics go besides metrics.jsonl; nothing is ever sent unless `wandb: online`.

    The environment's WANDB_MODE (online, offline, disabled) makes this stricter, never wider.
    """

    AFFECTS: ClassVar[Affects] = "nothing"
    wandb: Literal["off", "offline", "online"] = "offline"
    """offline writes a wandb folder into the run, to be sent by `wandb sync`; WANDB_MODE makes it stricter, never wider"""
    project: str = setting(default="ssl_med", needs={"wandb": ("offline", "online")})
    """W&B project"""
    entity: str = setting(default="", needs={"wandb": ("offline", "online")})
    """W&B team or user; empty: the account's default"""
    table: str = ""
    """comparison that the run belongs to, one of its tags"""
    pictures: bool = setting(default=False, needs={"wandb": ("offline", "online")})
    """W&B gets the pictures of test cases too: they show the scans"""

    def __post_init__(self) -> None:
        environment_mode()  # a word that W&B does not know is refused before work starts
        longest = 58  # "table:NAME" is a W&B tag, of at most 64
        if len(self.table) > longest:
            raise SslMedError(f"tracking.table has {len(self.table)} letters; W&B takes at most {longest}")
        for key, text in (("project", self.project), ("entity", self.entity)):
            if len(text) > 128 or any(letter in "/\\#?%:" or not letter.isprintable() for letter in text):
                raise SslMedError(
                    f"tracking.{key} is {text[:60]!r}; W&B takes at most 128 letters, and none of / \\ # ? % :"
                )
        if not self.project:
            raise SslMedError("tracking.project is empty; give W&B's project a name, or set tracking.wandb=off")


@dataclass
class LabelsConfig:
    """How many labelled training patients a task may use."""

    fraction: PositiveShare = 1.0
    """share of the training patients, in (0, 1]; the smaller budget lies within the larger one of the same seed"""
    shots: Natural = 0
    """training patients of each class, in place of a fraction; 0: off"""

    def __post_init__(self) -> None:
        if self.shots and self.fraction != 1:
            raise SslMedError("labels.fraction and labels.shots are both given; choose one")

    @property
    def whole(self) -> bool:
        """All labels are used."""
        return self.fraction == 1 and not self.shots


@dataclass
class BudgetConfig(LabelsConfig):
    """Label budget, and whether budgets of different size match in epochs or in steps."""

    match: Literal["epochs", "steps"] = "epochs"
    """what trainer.max_epochs counts: epochs of the budget, so that fewer labels mean fewer steps; or steps: every budget
    takes the steps, the schedule and the validations of all labels. trainer.max_steps alone always matches steps"""


@dataclass
class ImagesConfig:
    """Which images an analysis of features looks at."""

    part: Literal["train", "val", "test", "all"] = "test"
    """part of the split, or all of them"""
    cases: Natural = 100
    """images or scans, drawn by the seed; a volume gives its crops of evaluation; 0: all"""


@dataclass
class GeneralConfig:
    """Keys without a section."""

    seed: Seed = 0
    """seed of initial weights, batches, views and label budgets; the split has its own, data.split_seed"""
    out: str = setting(default="", affects="nothing")
    """run folder; empty: runs/<kind>/<name>-<hash>"""
    resume: bool = setting(default=True, affects="nothing")
    """go on from last.ckpt when the run folder holds one"""


@dataclass
class StartConfig(GeneralConfig):
    """And of what starts from weights."""

    init: str = setting(default=SCRATCH, named=_origin)
    """run folder, backbone file or file of weights from elsewhere to start from, or scratch"""
    family: str = setting(default="", before="", needs={"init": Other(SCRATCH)})
    """whose weights from elsewhere `init` holds (ssl-med list families); empty: the family that knows them"""


@dataclass
class PretrainStartConfig(StartConfig):
    """And of a pretraining, which mostly starts from random weights."""

    init: str = setting(default=SCRATCH, before=SCRATCH, named=_origin)
    """run folder, backbone file or file of weights from elsewhere to start from, or scratch; the folder of a run of the same
    method goes on with its teacher and heads"""


PAPER = "paper"  # the recipe of a task's own yaml


@dataclass
class TunedConfig(StartConfig):
    """And of what trains on labels."""

    recipe: str = setting(default=PAPER, before=PAPER)
    """finetune: how a network is trained, a name in conf/recipe; paper: the task's own protocol"""
