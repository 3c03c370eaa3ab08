"""Which group each image belongs to: its class, whether it has a finding, or what a table of the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_med.catalogue import nearest
from ssl_med.features.core.tables import read_columns
from ssl_med.spec import DataSpec, SslMedError

_COLUMNS = ("case", "group")


@dataclass(frozen=True)
class Groups:
    """Names of the groups, and the number of each image's group, (N,) int64, -1 where it is not known."""

    names: tuple[str, ...]
    number: np.ndarray


def groups_by_label(spec: DataSpec, label: Tensor, finding: str = "") -> Groups:
    """Classes, or the images without and with one finding.

    Args:
        spec: of the labels, "class" or "multilabel".
        label: (N,) int64 or (N, K) float32, nan where a finding is not known.
        finding: which one; empty: the one that is nearest to half of the images.

    Raises:
        SslMedError: there is no such finding, or the labels are classes.
    """
    if spec.target == "class":
        if finding:
            raise SslMedError(f"features.finding={finding}: the labels of '{spec.name}' are classes; leave it out")
        return Groups(tuple(spec.class_names), label.numpy().astype(np.int64))
    names = list(spec.class_names)
    if finding and finding not in names:
        raise SslMedError(f"features.finding: '{finding}' is unknown{nearest(finding, names)}")
    share = label.nanmean(0).nan_to_num(2)  # of a finding that is known of no image nothing can be said
    column = names.index(finding) if finding else int((share - 0.5).abs().argmin())
    found = label[:, column]
    number = torch.where(found.isnan(), -torch.ones_like(found), found).long()
    return Groups((f"no {names[column]}", names[column]), number.numpy())


def read_groups(file: str) -> dict[str, str]:
    """Group of each case in a CSV table with the columns case and group.

    Raises:
        SslMedError: no such table or column.
    """
    rows = read_columns(file, _COLUMNS, key="features.color_by")
    return {case: group for _, (case, group) in rows if case}


def groups_by_table(group: Mapping[str, str], names: Sequence[str]) -> Groups:
    """Groups of the images of these names, by what `read_groups` read.

    Raises:
        SslMedError: none of the images is in it.
    """
    known = sorted({group[name] for name in names if group.get(name)})
    if not known:
        raise SslMedError(
            f"features.color_by: none of the images is in the table; its column case needs names such as '{names[0]}', as "
            "features.csv of the run has them"
        )
    place = {name: number for number, name in enumerate(known)}
    return Groups(tuple(known), np.array([place.get(group.get(name, ""), -1) for name in names], np.int64))
