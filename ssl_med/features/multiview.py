"""Whether two views of one patient are alike to a network: frontal and lateral, left and right eye, two dates, two sequences.

Paper: Anton et al. 2022, Sec. 4.4.3 and Table A3, where this was the one invariance that went with transfer (r = 0.82 on
CheXpert); Azizi et al., "Big self-supervised models advance medical image classification" (MICLe), ICCV 2021.

With features whitened over all images (`core/whitening.py`), the number is the mean over patients of the mean over a
patient's pairs of cos(z(a), z(b)). Beside it stand the cosine of a and b of different patients, which tells what is common
to all, and how often the own b is the most alike to an a among those of all patients. A volume that is seen in several crops
has the mean of their features. The paper takes one pair of each of its data sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.drawing import Tile, panels, planes, tiles
from ssl_med.features.core.images import Images
from ssl_med.features.core.published import MULTIVIEW, beside
from ssl_med.features.core.tables import content_name, read_columns
from ssl_med.features.core.whitening import chosen_whitening, cosine
from ssl_med.finite import check_rows
from ssl_med.ledger import salted
from ssl_med.ranges import Natural
from ssl_med.setting import setting
from ssl_med.spec import SslMedError

_KEY = "features.pairs"


@dataclass
class MultiviewConfig:
    """Which images belong together."""

    pairs: str = setting(default="", named=content_name, path=True)
    """CSV table with the columns a and b: names of two images of one patient, as in features.csv or as the data set has them"""
    robust: bool = False
    """Ledoit and Wolf's covariance in any case, and not only where there are no more images than features"""
    pictures: Natural = 4
    """pairs that are drawn, the first ones"""


@dataclass(frozen=True)
class _Pair:
    a: str
    b: str
    patient: int


class Multiview(Analysis):
    """Whitened cosine between two images of a patient."""

    Config = MultiviewConfig
    paper = "Anton et al. 2022, Sec. 4.4.3; Azizi et al. 2021"

    def measure(self, images: Images) -> Findings:
        """Numbers `cosine`, `other_patients`, `recognised`, `pairs` and `patients`; a row for each pair."""
        if not self.config.pairs:
            raise SslMedError(f"kind=multiview needs {_KEY}=FILE, a CSV table with the columns a and b")
        rows = read_columns(self.config.pairs, ("a", "b"), key=_KEY)  # before anything is computed
        wanted = {form for _, names in rows[: self.config.pictures] for name in names for form in _forms(name)}
        cases, features, shown, patient = self._seen(images, wanted)
        pairs = self._pairs(rows, cases, patient)
        whitening, notes = chosen_whitening(features, robust=self.config.robust)
        z = whitening(features)
        a, b = ([cases[getattr(pair, side)] for pair in pairs] for side in ("a", "b"))
        of = torch.tensor([pair.patient for pair in pairs])
        table = cosine(z[a][:, None], z[b][None])  # (P, P)
        own = table.diagonal()
        others = of[:, None] != of[None]
        by_patient = [own[of == number].mean() for number in sorted(set(of.tolist()))]
        apart = table[others]
        best = table.masked_fill(~others, -math.inf).max(1).values
        numbers = {
            "cosine": float(torch.stack(by_patient).mean()),
            "other_patients": float(apart.mean()) if len(apart) else math.nan,
            "recognised": float((own > best).double().mean()) if len(apart) else math.nan,
            "pairs": float(len(pairs)),
            "patients": float(len(by_patient)),
        }
        found = [
            {"case": pair.a, "other": pair.b, "cosine": float(value)} for pair, value in zip(pairs, own, strict=True)
        ]
        share = np.linspace(0, 1, 101)
        arrays = {"same": np.quantile(own.numpy(), share)}
        if len(apart):
            arrays["other"] = np.quantile(apart.numpy(), share)
        for number, pair in enumerate(pairs[: self.config.pictures]):
            arrays |= {f"a{number}": shown[pair.a], f"b{number}": shown[pair.b]}
        notes += beside(images.spec.name, MULTIVIEW, where="Table A3", what="multi-view invariance of one pair")
        return Findings(numbers, "cosine", found, arrays, notes)

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """The cosines of one patient's and of different patients' images; and the first pairs."""
        share = np.linspace(0, 1, 101)
        lines = {
            network: {
                name: (one.arrays[key], share)
                for key, name in (("same", "same patient"), ("other", "other patients"))
                if key in one.arrays
            }
            for network, one in found.items()
        }
        figure = panels(
            lines, title="Two views of a patient", x=dict.fromkeys(lines, "whitened cosine"), y="share of the pairs"
        )
        caption = "The further right the line of the same patient, the more alike its two views are to the network."
        drawings = [Drawing("multiview", "cosines of pairs", figure, caption)]
        first = next(iter(found.values()))
        grid, names = [], []
        for number in range(sum(key[0] == "a" and key[1:].isdigit() for key in first.arrays)):
            row = first.rows[number]
            told = ", ".join(f"{network} {float(one.rows[number]['cosine']):.2f}" for network, one in found.items())
            views = [planes(first.arrays[f"{side}{number}"]) for side in "ab"]
            for plane in views[0]:
                grid.append([Tile(view[plane]) for view in views])
                names.append("\n".join(filter(None, [str(row["case"]), str(row["other"]), plane, *told.split(", ")])))
        if grid:
            figure = tiles(grid, names=names, heads=["a", "b"])
            drawings.append(Drawing("multiview_pairs", "pairs of images", figure, "Beside each pair its cosines."))
        return drawings

    def _seen(
        self, images: Images, wanted: set[str]
    ) -> tuple[dict[str, int], Tensor, dict[str, np.ndarray], list[int]]:
        """Cases by name with their place, features (N, d), the images of the wanted ones, and the patient of each."""
        cases: dict[str, int] = {}
        sums: list[Tensor] = []
        counts: list[int] = []
        patients: list[int] = []
        shown: dict[str, np.ndarray] = {}
        seen = 0
        for batch in images.batches("features"):
            found = images.pooled(batch["image"]).double().cpu()
            check_rows(batch["id"], found, "features")
            for name, one, image in zip(batch["id"], found, batch["image"], strict=True):
                if name not in cases:
                    cases[name] = len(sums)
                    sums.append(torch.zeros_like(one))
                    counts.append(0)
                    patients.append(images.subjects[seen])
                    if name in wanted:
                        shown[name] = image.cpu().numpy()
                sums[cases[name]] += one
                counts[cases[name]] += 1
                seen += 1
        if len(cases) < 2:
            raise SslMedError("kind=multiview needs two images or more for a covariance; raise images.cases")
        return cases, torch.stack(sums) / torch.tensor(counts, dtype=torch.float64)[:, None], shown, patients

    def _pairs(
        self, rows: Sequence[tuple[int, tuple[str, ...]]], cases: Mapping[str, int], patient: Sequence[int]
    ) -> list[_Pair]:
        if not rows:
            raise SslMedError(f"{_KEY}: {self.config.pairs}: holds no pair; give a row for each")
        found = []
        for line, entries in rows:
            where = f"{_KEY}: {self.config.pairs}: line {line}"
            names = []
            for column, entry in zip("ab", entries, strict=True):
                if not entry:
                    raise SslMedError(f"{where} has nothing in column {column}; name an image, or take the row out")
                name = next((form for form in _forms(entry) if form in cases), "")
                if not name:
                    raise SslMedError(
                        f"{where}: '{entry}' is none of the {len(cases)} images, which are called like '{next(iter(cases))}'; "
                        "images.cases=0 takes all of images.part"
                    )
                names.append(name)
            if names[0] == names[1]:
                raise SslMedError(f"{where} names '{entries[0]}' twice; a pair has two images")
            of = [patient[cases[name]] for name in names]
            if of[0] != of[1]:
                raise SslMedError(
                    f"{where}: '{entries[0]}' and '{entries[1]}' are of different patients; take the row out, or say whose "
                    "they are (data.subject_pattern of own images)"
                )
            found.append(_Pair(names[0], names[1], of[0]))
        return found


def _forms(name: str) -> tuple[str, ...]:
    """How an image of this name may be called: names that the data set did not publish leave it as salted hashes."""
    return (name, f"case-{salted(name)[:12]}", f"image-{salted(name)[:12]}")
