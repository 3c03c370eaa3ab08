"""Which changes of an image a network does not see: the cosine of whitened features over a grid of parameters.

Paper: Anton et al. 2022, Sec. 4.4.3 and Tables A1 and A2, after Ericsson et al. 2021. Features are whitened over all images
(`core/whitening.py`); then each of some images x is changed by each parameter t of a change, and

    invariance = mean over x and t of cos(z(x), z(t(x))).

A network that does not see the change has 1, one whose answer to a changed image has nothing to do with that to the image 0.
The paper counts the unchanged image among the parameters, so that a flip, which has one other, is at least about 0.5 for
any network: both numbers are given, `CHANGE` without it and `CHANGE/with_identity`.

Where we deviate: the ranges are those of `core/changes.py`; 16 parameters each in place of 256, which `features.steps=256`
gives; and where there are no more images than features the covariance is shrunk, since it has no inverse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from ssl_med.catalogue import nearest
from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.changes import CHANGES, changes_for
from ssl_med.features.core.drawing import dots, panels
from ssl_med.features.core.images import Images
from ssl_med.features.core.published import HORIZONTAL_FLIP, HUE, ROTATION, beside
from ssl_med.features.core.whitening import Whitening, chosen_whitening, cosine
from ssl_med.finite import check_rows
from ssl_med.ranges import Natural, Range
from ssl_med.spec import SslMedError

_PUBLISHED = {"rotation": (ROTATION, "Table A1"), "hue": (HUE, "Table A1"), "hflip": (HORIZONTAL_FLIP, "Table A2")}


@dataclass
class InvarianceConfig:
    """Which changes, how finely, of how many images."""

    transforms: tuple[str, ...] = ()
    """changes, such as rotation, hflip, scale, blur, contrast; empty: all that these images can have"""
    steps: Annotated[int, Range(2, 4096)] = 16
    """parameters of each change, or about as many where they are a grid; the paper has 256"""
    changed: Natural = 100
    """images that are changed, drawn by the seed; all are used for the covariance; 0: all"""
    robust: bool = False
    """Ledoit and Wolf's covariance in any case, and not only where there are no more images than features"""


class Invariance(Analysis):
    """Whitened cosine between images and their changed selves."""

    Config = InvarianceConfig
    paper = "Anton et al. 2022, Sec. 4.4.3"

    def measure(self, images: Images) -> Findings:
        """Numbers `CHANGE`, `CHANGE/with_identity`, and `mean`, that of all changes without the identity."""
        if images.count < 2:
            raise SslMedError("kind=invariance needs two images or more for a covariance; raise images.cases")
        steps = self._steps(images)
        features = images.pooled_levels()[-1]
        whitening, notes = chosen_whitening(features, robust=self.config.robust)
        chosen = self._chosen(images)
        rows: list[dict[str, Any]] = []
        cosines: dict[str, list[np.ndarray]] = {name: [] for name in steps}
        seen = 0
        for batch in images.batches("images"):
            inside = [place for place in range(len(batch["id"])) if seen + place in chosen]
            numbers = [seen + place for place in inside]
            seen += len(batch["id"])
            if not inside:
                continue
            make = partial(self._cosines, images, batch["image"][inside], numbers, whitening, steps)
            found = images.kept(f"invariance-{numbers[0]}-{numbers[-1]}", make)
            for name, values in found.items():
                cosines[name].append(values)
            rows += [
                {"case": batch["id"][place], **{name: float(found[name][k].mean()) for name in steps}}
                for k, place in enumerate(inside)
            ]
        whole = {name: np.concatenate(parts) for name, parts in cosines.items()}  # (N, P)
        numbers_found: dict[str, float] = {}
        arrays = {}
        for name, values in whole.items():
            count = values.shape[1]
            numbers_found[name] = float(values.mean())
            numbers_found[f"{name}/with_identity"] = float((values.mean() * count + 1) / (count + 1))
            arrays[f"{name}/cosine"] = values.mean(0)
            arrays[f"{name}/parameter"] = np.array(steps[name])
        numbers_found["mean"] = float(np.mean([numbers_found[name] for name in steps]))
        notes.append(f"{len(rows)} images were changed by {sum(map(len, steps.values()))} parameters each")
        for name in set(steps) & set(_PUBLISHED):
            table, where = _PUBLISHED[name]
            notes += beside(images.spec.name, table, where=where, what=f"invariance to {name} with the identity")
        return Findings(numbers_found, "mean", rows, arrays, notes)

    def passes(self, images: Images) -> int:
        """All images once, and the changed ones by each parameter."""
        return images.count + (len(self._chosen(images)) * (1 + sum(map(len, self._steps(images).values()))))

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """A point for each change and network; and the cosine along each change that has one parameter."""
        first = next(iter(found.values()))
        names = [key.removesuffix("/cosine") for key in first.arrays if key.endswith("/cosine")]
        names = [name for name in CHANGES if name in names]
        values = {network: {name: one.numbers[name] for name in names} for network, one in found.items()}
        figure = dots(values, title="Invariance", x="whitened cosine, identity excluded")
        caption = "1: the network does not see the change; 0: the changed image is to it as another image."
        drawings = [Drawing("invariance", "invariance to each change", figure, caption)]
        along = [name for name in names if CHANGES[name].unit and len(first.arrays[f"{name}/parameter"]) > 1]
        if along:
            lines = {
                name: {
                    network: (one.arrays[f"{name}/parameter"][:, 0], one.arrays[f"{name}/cosine"])
                    for network, one in found.items()
                }
                for name in along
            }
            units = {name: CHANGES[name].unit for name in along}
            figure = panels(lines, title="Invariance along each change", x=units, y="whitened cosine")
            drawings.append(
                Drawing(
                    "invariance_curves", "cosine along each change", figure, "Where a line falls, the change is seen."
                )
            )
        return drawings

    def _steps(self, images: Images) -> dict[str, list[tuple[float, ...]]]:
        dims, channels = images.spec.spatial_dims, images.spec.in_channels
        known = changes_for(dims, channels)
        for name in self.config.transforms:
            if name not in CHANGES:
                raise SslMedError(f"features.transforms: there is no '{name}'{nearest(name, list(known))}")
            if name not in known:
                raise SslMedError(
                    f"features.transforms: '{name}' is not for images of {dims} dimensions and {channels} channels; there are: "
                    f"{', '.join(known)}"
                )
        names = self.config.transforms or known
        found = {name: CHANGES[name].steps(self.config.steps, images.spec.patch_size) for name in names}
        return {name: steps for name, steps in found.items() if steps}

    def _chosen(self, images: Images) -> set[int]:
        count = images.count if not self.config.changed else min(self.config.changed, images.count)
        return set(np.random.default_rng([images.seed, 0x1A7]).permutation(images.count)[:count].tolist())

    def _cosines(
        self, images: Images, x: Tensor, numbers: Sequence[int], whitening: Whitening, steps: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """(B, C, *S) -> for each change (B, P); `numbers`: of the images, by which their noise is drawn."""
        normal = torch.stack([_normal(x.shape[1:], seed=images.seed, number=number) for number in numbers]).to(x)

        def whitened(changed: Tensor) -> Tensor:
            features = images.pooled(changed).cpu()
            check_rows([str(number) for number in numbers], features, "features")
            return whitening(features)

        still = whitened(x)
        found = {}
        for name, parameters in images.shown(steps.items(), "changes"):
            change = CHANGES[name]
            along = [cosine(still, whitened(change(x, parameter, normal))) for parameter in parameters]
            found[name] = torch.stack(along, 1).numpy()
        return found


def _normal(shape: Sequence[int], *, seed: int, number: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, number]).standard_normal(tuple(shape), dtype=np.float32))
