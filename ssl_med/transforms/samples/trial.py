"""A pipeline is tried on made-up samples before work starts: what training could not use is refused in one line.

Each entry runs with its probability at 1, and each choice of a `OneOf`, so that a rare transform fails now, not at night.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, MapTransform, OneOf, RandomOrder, SomeOf

from ssl_med.spec import DataSpec, SslMedError
from ssl_med.transforms.samples.lists import TransformList
from ssl_med.transforms.samples.pipeline import Pipeline, Size, Step, applied, moves, own_globals, plain, wrapped


def check_pipeline(listed: TransformList, spec: DataSpec, *, whole: bool = False) -> None:
    """Refuses a list that cannot be built, or after which training could not use the samples.

    Args:
        listed: the list.
        spec: of the data: channels, crop size, and whether there is a mask.
        whole: it also acts on images that are larger than a crop.

    Raises:
        SslMedError: names the list, the entry and the remedy.
    """
    keys = ("image", "mask") if spec.target == "mask" else ("image",)
    patch = spec.patch_size
    pipeline = Pipeline(listed)
    for step in pipeline.steps:
        _check_keys(step, step.transform, keys, spec.name)
    sizes = [patch, *([tuple(n + 3 for n in patch)] if whole else [])]
    for number, size in enumerate(sizes):
        for forced in (True, False):
            trial = copy.deepcopy(pipeline)
            if forced:
                _force(trial)
            trial.seed(number, forced)
            with own_globals(number, forced):
                _try(trial, spec, size, keys)


def _children(transform: Any) -> list[Any]:
    return list(transform.transforms) if isinstance(transform, Compose) else []


def _check_keys(step: Step, transform: Any, keys: Sequence[str], data: str) -> None:
    for child in _children(transform):
        _check_keys(step, child, keys, data)
    if not isinstance(transform, MapTransform):
        return
    for key in transform.keys:
        if key not in keys and not transform.allow_missing_keys:
            there = ", ".join(keys)
            raise SslMedError(
                f"{step.name}: keys: '{key}' is not in the samples of '{data}', which have {there}; leave it out"
            )
    if moves(transform) and "mask" in keys and len({"image", "mask"} & set(transform.keys)) == 1:
        raise SslMedError(
            f"{step.name}: moves {transform.keys[0]} alone; say keys: [image, mask], so that masks stay on images"
        )


def _force(pipeline: Pipeline) -> None:
    """Every probability to 1, so that a rare transform is tried too."""
    for one in pipeline.drawers:
        for key in ("prob", "prob_rotate", "prob_scale"):
            if hasattr(one, key):
                setattr(one, key, 1.0)


def _try(pipeline: Pipeline, spec: DataSpec, size: Size, keys: Sequence[str]) -> None:
    window = pipeline.window(size)
    seen = size if window is None else tuple(max(a, b) for a, b in zip(window, size, strict=True))
    rng = np.random.default_rng(0)
    data: dict[str, Any] = {"image": rng.random((spec.in_channels, *seen), np.float32)}
    if "mask" in keys:
        data["mask"] = (rng.random((len(spec.class_names), *seen)) < 0.5).astype(np.float32)
    spacing = spec.spacing_mm or (1.0,) * spec.spatial_dims
    affine = np.diag([*spacing, *(1.0,) * (4 - spec.spatial_dims)])
    data = {key: wrapped(torch.from_numpy(value), affine) for key, value in data.items()}
    expected = {"image": (spec.in_channels, *size), "mask": (len(spec.class_names), *size)}
    blamed: dict[str, Step] = {}
    for step in pipeline.steps:
        for branch in _branches(step.transform):
            after = applied(Step(branch, step.name), data, "")
            for key in keys:
                if key not in after:
                    raise SslMedError(f"{step.name} takes {key} out of the sample; leave it out")
                if _wrong(after[key], key, expected[key]) != _wrong(data[key], key, expected[key]):
                    blamed[key] = step
        data = after
    for key in keys:
        if wrong := _wrong(data[key], key, expected[key]):
            raise SslMedError(f"{blamed[key].name if key in blamed else pipeline.label} {wrong}")


def _branches(transform: Any) -> list[Any]:
    """What a transform may do: each of the choices of a OneOf or SomeOf."""
    if isinstance(transform, OneOf | SomeOf) and not isinstance(transform, RandomOrder):
        return [branch for child in transform.transforms for branch in _branches(child)]
    return [transform]


def _wrong(x: Any, key: str, expected: Size) -> str:
    """Why training cannot use a value, with the remedy; ''."""
    if tuple(x.shape) != expected:
        shape = "x".join(map(str, x.shape))
        if len(x.shape) != len(expected) or x.shape[0] != expected[0]:
            return f"makes {key} {shape}, which must stay {'x'.join(map(str, expected))} (channels first); leave it out"
        remedy = "end the list with ResizeWithPadOrCropd(spatial_size: ${patch_size}), or leave it out"
        return f"makes {key} {shape}, which must stay {'x'.join(map(str, expected))}; {remedy}"
    value = plain(x)
    assert value is not None
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        return f"makes {key} {kind}, which must stay float32; add EnsureTyped(dtype: float32)"
    if not value.isfinite().all():
        return f"makes {key} hold values that are not finite; change its arguments or leave it out"
    if key == "mask" and not ((value == 0) | (value == 1)).all():
        return "leaves mask with values other than 0 and 1; take mask out of its keys, or say mode: nearest for it"
    return ""
