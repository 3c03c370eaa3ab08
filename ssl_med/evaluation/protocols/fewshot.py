"""Few-shot probe of frozen features: the nearest class mean, over episodes.

Source: Anton et al., "How well do self-supervised models transfer to medical imaging?", Journal of Imaging 8, 2022, Sec. 4.3;
prototypes: Snell et al., NeurIPS 2017.

Where we differ, and why: support images of an episode come from training patients and queries from test patients
(`pool: false`), since two images of one patient in support and query would make the result too good; the paper draws both from
all images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ssl_med.evaluation.features import Features
from ssl_med.evaluation.protocols.core.choice import CHUNK
from ssl_med.evaluation.protocols.core.contract import LevelsConfig, Probe, Result, Source, pooled_features
from ssl_med.evaluation.tasks import Row
from ssl_med.ranges import Count, Range
from ssl_med.spec import DataSpec, SslMedError


@dataclass
class FewshotConfig(LevelsConfig):
    """Nearest class mean in episodes; defaults of Anton et al. 2022."""

    ways: Annotated[int, Range(2, 1000, special=(0,))] = 0
    """classes of an episode; 0: the paper's, 5 where there are as many, else 2"""
    shots: Count = 20
    """support samples of a class"""
    queries: Count = 15
    """query samples of a class"""
    episodes: Annotated[int, Range(1, 10**6)] = 600
    """number of episodes"""
    pool: bool = False
    """support and queries from training and test samples together, as in the paper; patients may then be in both"""


class Fewshot(Probe):
    """Nearest class mean of a few support samples, over many episodes."""

    Config = FewshotConfig
    config: FewshotConfig
    parts = ("train", "test")
    metric = "accuracy"

    def result(self, source: Source) -> Result:
        """Support from train, queries from test."""
        train, test = pooled_features(source, self.parts)
        found = fewshot(self.config, source.spec, train, test, seed=source.seed)
        subjects = source.subjects()
        # of a pool the training samples come first; their subjects are not counted
        first = len(found.ids) - len(subjects)
        rows: list[Row] = []
        for k, asked in enumerate(found.asked.tolist()):
            if asked:
                row = {"case": found.ids[k], "label": int(found.label[k]), "asked": asked}
                row |= {"subject": subjects[k - first]} if k >= first else {}
                rows.append(row | {"accuracy": int(found.right[k]) / asked})
        return Result(self.metric, found.metrics, rows, {}, list(found.notes))


@dataclass(frozen=True)
class Answers:
    """Accuracy of each episode (E,), and of each query sample: how often it was asked and right."""

    accuracy: Tensor
    ids: tuple[str, ...]
    label: Tensor
    asked: Tensor
    right: Tensor
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Mean accuracy and the half width of its 95 % interval, 1.96 sd / sqrt(E) with n in the denominator of sd."""
        each = self.accuracy.double()
        half = 1.96 * float(each.std(correction=0)) / math.sqrt(len(each))
        return {"accuracy": float(each.mean()), "accuracy_ci95": half}


def fewshot(config: FewshotConfig, spec: DataSpec, train: Features, test: Features, *, seed: int) -> Answers:
    """Episodes over cached features; of several findings a sample only samples with exactly one count, as in the paper."""
    notes = []
    if config.pool:
        support = query = train + test
        notes.append("support and queries come from training and test samples together: patients may be in both")
    else:
        support, query = train, test
    places = [_by_class(part, spec) for part in (support, query)]
    least = (config.shots, config.queries) if not config.pool else (config.shots + config.queries,) * 2
    usable = [
        k
        for k in range(len(spec.class_names))
        if all(len(place[k]) >= n for place, n in zip(places, least, strict=True))
    ]
    dropped = [spec.class_names[k] for k in range(len(spec.class_names)) if k not in usable]
    if dropped and spec.target == "class":
        k = spec.class_names.index(dropped[0])
        raise SslMedError(
            f"class '{dropped[0]}' has {len(places[0][k])} support and {len(places[1][k])} query samples, an episode "
            f"needs {least[0]} and {least[1]}; lower probe.shots or probe.queries, or take more subjects"
        )
    ways = config.ways or (5 if len(usable) >= 5 else 2)
    if len(usable) < ways:
        raise SslMedError(
            f"probe.ways is {ways}, but {len(usable)} classes have {least[0]} support and {least[1]} query samples; "
            "lower probe.ways, probe.shots or probe.queries"
        )
    if dropped:
        notes.append(f"findings with too few samples of their own are left out: {', '.join(dropped)}")
    rng = np.random.default_rng([seed, 0xFE3])
    episodes = draw_episodes(
        [places[0][k] for k in usable],
        [places[1][k] for k in usable],
        ways=ways,
        shots=config.shots,
        queries=config.queries,
        count=config.episodes,
        rng=rng,
        pool=config.pool,
    )
    right = episode_answers(support.x, query.x, *episodes)
    asked = torch.zeros(len(query), dtype=torch.long)
    hits = torch.zeros(len(query), dtype=torch.long)
    flat = episodes[1].flatten()
    asked.index_add_(0, flat, torch.ones_like(flat))
    hits.index_add_(0, flat, right.flatten().long().cpu())
    label = torch.full((len(query),), -1)
    for k, rows in enumerate(places[1]):
        label[torch.from_numpy(rows)] = k
    notes.append(
        f"{ways}-way {config.shots}-shot, {config.queries} queries a class, {config.episodes} episodes; "
        "the interval is over episodes, not over patients"
    )
    return Answers(right.double().flatten(1).mean(1).cpu(), query.ids, label, asked, hits, tuple(notes))


def _by_class(features: Features, spec: DataSpec) -> list[np.ndarray]:
    """Rows of each class; of findings those that have no other and are known throughout."""
    label = features.label.cpu().numpy()
    if spec.target == "class":
        return [np.flatnonzero(label == k) for k in range(len(spec.class_names))]
    single = (label.sum(1) == 1) & ((label == 0) | (label == 1)).all(1)
    return [np.flatnonzero(single & (label[:, k] == 1)) for k in range(label.shape[1])]


def draw_episodes(
    support: list[np.ndarray],
    query: list[np.ndarray],
    *,
    ways: int,
    shots: int,
    queries: int,
    count: int,
    rng: np.random.Generator,
    pool: bool,
) -> tuple[Tensor, Tensor]:
    """Rows of support (E, ways, shots) and query samples (E, ways, queries), without repetition within an episode.

    Args:
        support: rows of each class.
        query: rows of each class; the same when `pool`.
        ways: W classes of an episode.
        shots: S.
        queries: Q.
        count: E.
        rng: draws classes, then samples.
        pool: support and queries of a class are drawn together, so that they never overlap.
    """
    first = np.empty((count, ways, shots), np.int64)
    second = np.empty((count, ways, queries), np.int64)
    for episode in range(count):
        for way, k in enumerate(rng.choice(len(support), ways, replace=False)):
            if pool:
                both = rng.choice(support[k], shots + queries, replace=False)
                first[episode, way], second[episode, way] = both[:shots], both[shots:]
            else:
                first[episode, way] = rng.choice(support[k], shots, replace=False)
                second[episode, way] = rng.choice(query[k], queries, replace=False)
    return torch.from_numpy(first), torch.from_numpy(second)


def episode_answers(support: Tensor, query: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Whether the nearest class mean (squared Euclidean distance) is the query's own.

    Args:
        support: (N, D) features.
        query: (M, D) features.
        first: (E, W, S) rows of `support`.
        second: (E, W, Q) rows of `query`.

    Returns:
        (E, W, Q) bool.
    """
    support, query = support.double(), query.double()
    answers = []
    numbers = (first.shape[1] * (first.shape[2] + second.shape[2])) * support.shape[1]
    for rows in torch.split(torch.arange(len(first)), max(1, CHUNK // numbers)):
        means = support[first[rows].to(support.device)].mean(2)  # (e, W, D)
        asked = query[second[rows].to(query.device)].flatten(1, 2)  # (e, W Q, D)
        distance = torch.cdist(asked, means, compute_mode="donot_use_mm_for_euclid_dist")
        own = torch.arange(first.shape[1], device=support.device).repeat_interleave(second.shape[2])
        answers.append((distance.argmin(2) == own).view(-1, *second.shape[1:]))
    return torch.cat(answers)
