"""The case of a family: a file in its original layout with seeded numbers, and an independent forward of the original network.

`tests/weights/cases/NAME.py` belongs to `ssl_med/weights/NAME.py` and defines `CASES`, a list of `Case`. Every test of
`test_families.py` runs on each of them; what is special to a family stands in a `test_NAME.py` of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    """One network of a family.

    * name: such as resnet18. * build: seeded generator -> what the original code saves: a state dict, or containers around one.
    * forward: (what `build` made, images) -> the original's pyramid, finest first, or its features of the last level alone;
      images (B, *shape) have been scaled as the contract says, and `forward` normalises them as the original does. Written
      from the paper and the layout, without any module of ours.
    * shape: (C, *S) of the test images. * ending: of the file. * folder: further files beside the tensors, name -> text:
      then the case is a folder, and `ending` the name of its file of tensors.
    * also: other families that recognise the layout, so that a user has to name this one. * named: this family does not
      recognise it, it admits it where a user names the family. * wishes: arguments of `Wishes`.
    * tolerance: of the features, absolute and relative. * slow: takes more than a second or two.
    """

    name: str
    build: Callable[[torch.Generator], dict[str, Any]]
    forward: Callable[[dict[str, Any], Tensor], list[Tensor] | Tensor]
    shape: tuple[int, ...]
    ending: str = ".pth"
    folder: dict[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    named: bool = False
    wishes: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-4
    slow: bool = False

    def made(self) -> dict[str, Any]:
        """What the original code saves, the same every time."""
        return self.build(torch.Generator().manual_seed(0))

    def write(self, folder: Path, content: dict[str, Any]) -> Path:
        """Writes it as a user would have it."""
        path = folder / (self.ending if self.folder else f"weights{self.ending}")
        if path.suffix == ".safetensors":
            save_file({key: value.contiguous() for key, value in content.items()}, path)
        elif path.suffix == ".npz":
            np.savez(path, **{key: value.numpy() for key, value in content.items()})
        else:
            torch.save(content, path)
        for name, text in self.folder.items():
            (folder / name).write_text(text)
        return folder if self.folder else path

    def images(self) -> Tensor:
        """Two images with values in [0, 1]."""
        return torch.rand(2, *self.shape, generator=torch.Generator().manual_seed(1))


def cases_of(name: str) -> list[Case]:
    """The cases of a family."""
    spec = importlib.util.spec_from_file_location(f"case_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CASES


def all_cases() -> list[tuple[str, Case]]:
    """(family, case) of all families."""
    return [(path.stem, case) for path in sorted(FOLDER.glob("*.py")) for case in cases_of(path.stem)]


def tensors_in(content: dict[str, Any]) -> dict[str, Tensor]:
    """The innermost container that holds tensors, to be changed in place; the largest one."""
    found: list[dict[str, Any]] = []
    level = [content]
    while level:
        node = level.pop()
        found.append(node)
        level += [value for value in node.values() if isinstance(value, dict)]
    return max(found, key=lambda node: sum(isinstance(value, Tensor) for value in node.values()))
