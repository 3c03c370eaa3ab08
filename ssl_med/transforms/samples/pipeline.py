"""MONAI pipelines from lists of `{_target_: RandFlipd, keys: [image, mask], ...}`: built, checked, and seeded per sample.

A target is a transform of MONAI or of this package, or of a package that the user allows by name; no other callable can be
reached. All that is wrong with a list is said in one line that names the entry, before work starts: `check_pipeline` runs the
pipeline on made-up samples with every probability at 1.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.transforms import Compose, MapTransform, Randomizable, Transform

from ssl_med.spec import SslMedError, first_line
from ssl_med.transforms.samples import targets
from ssl_med.transforms.samples.lists import TransformList

Size = tuple[int, ...]
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # MONAI's world, from the LPS of this project


@dataclass(frozen=True)
class Step:
    """One transform and how messages name it: "conf/augment/mine.yaml: entry 2 (RandFlipd)"."""

    transform: Any
    name: str


class Pipeline:
    """The transforms of a list, one after the other, on `image` (C, *S) and, where there is one, `mask` (K, *S).

    Args:
        listed: the list.

    Raises:
        SslMedError: an entry cannot be built.
    """

    def __init__(self, listed: TransformList) -> None:
        self.label = listed.label
        steps = [step for k, entry in enumerate(listed.entries, 1) for step in _steps(listed, k, entry)]
        self.steps = [step for step in steps if listed.random or not is_random(step.transform)]
        self.drawers = [one for step in self.steps for one in randomizables(step.transform)]
        self._state = np.random.RandomState(0)  # seeded again and again: a new one takes longer than most transforms
        for one in self.drawers:
            one.R = self._state
        self._placed = not all(_needs_no_place(leaf) for step in self.steps for leaf in _leaves(step.transform))

    def seed(self, *words: int) -> None:
        """Every draw that follows depends on these numbers alone, such as (seed, epoch, index)."""
        self._state.seed(np.random.SeedSequence(words).generate_state(4))

    def window(self, patch: Size) -> Size | None:
        """Size of what the first transform wants to see around a crop of size `patch`, drawn now; None: the crop alone."""
        return self.steps[0].transform.window(patch) if self.resamples else None

    @property
    def resamples(self) -> bool:
        """Whether the first transform makes crops out of larger windows."""
        return bool(self.steps) and hasattr(self.steps[0].transform, "window")

    def see(self, middle: Sequence[float]) -> None:
        """Tells the first transform where the middle of the crop lies within what it sees, in voxels."""
        if self.resamples:
            self.steps[0].transform.middle = middle

    def __call__(
        self, image: torch.Tensor, mask: torch.Tensor | None = None, *, affine: Any = None, case: str = ""
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Plain float32 tensors in, plain float32 tensors out; inputs are not changed.

        Args:
            image: (C, *S).
            mask: (K, *S) in {0, 1}.
            affine: (4, 4) voxel to world in mm, LPS, or None: not known.
            case: name of the sample, for messages.

        Raises:
            SslMedError: a transform fails.
        """
        data: dict[str, Any] = {}
        for key, x in (("image", image), ("mask", mask)):
            if x is not None:
                data[key] = wrapped(x, affine) if self._placed else x.clone()
        with _tracking(self._placed):
            for step in self.steps:
                data = applied(step, data, case)
        return tuple(plain(data.get(key)) for key in ("image", "mask"))  # type: ignore[return-value]


_BLIND = ("monai.transforms.intensity.", "ssl_med.transforms.")  # modules that never ask where voxels lie
_STILL = ("RandSimulateLowResolution", "RandSimulateLowResolutiond")  # MONAI counts them as spatial, but no voxel moves
_MOVERS = ("monai.transforms.spatial.", "monai.transforms.croppad.")


def moves(transform: Any) -> bool:
    """Whether a transform moves voxels, so that image and mask must go together."""
    kind = type(transform)
    return bool(getattr(transform, "moves", kind.__module__.startswith(_MOVERS) and kind.__name__ not in _STILL))


def _needs_no_place(transform: Any) -> bool:
    return type(transform).__module__.startswith(_BLIND) or type(transform).__name__ in _STILL


def _leaves(transform: Any) -> Iterator[Any]:
    """A transform, or in place of a Compose or one of its kind what it holds."""
    if isinstance(transform, Compose):
        for child in transform.transforms:
            yield from _leaves(child)
    else:
        yield transform
        if isinstance(getattr(transform, "transform", None), Transform):
            yield from _leaves(transform.transform)


@contextmanager
def _tracking(on: bool) -> Iterator[None]:
    """MONAI's switch for MetaTensors, whose bookkeeping is a third of the time of nnU-Net's augmentation on a small crop."""
    before = get_track_meta()
    set_track_meta(on)
    try:
        yield
    finally:
        set_track_meta(before)


def wrapped(x: torch.Tensor, affine: Any) -> MetaTensor:
    """A copy of x that knows where its voxels lie; affine (4, 4) in LPS, or None."""
    if affine is None:
        return MetaTensor(x.clone())
    return MetaTensor(x.clone(), affine=torch.from_numpy(_RAS @ np.asarray(affine, np.float64)))


def from_ras(x: MetaTensor) -> np.ndarray:
    """Voxel to world (4, 4) in mm, LPS, of a MetaTensor; the inverse of what `wrapped` does."""
    return np.asarray(_RAS @ np.asarray(x.affine, np.float64))


def allow_missing(step: Step, keys: Sequence[str]) -> None:
    """Lets a step pass over keys that a sample does not have; refuses keys that no sample has."""
    for one in _leaves(step.transform):
        if isinstance(one, MapTransform):
            for key in one.keys:
                if key not in keys:
                    raise SslMedError(f"{step.name}: keys: '{key}' is not there; there are: {', '.join(keys)}")
            one.allow_missing_keys = True


def plain(x: Any) -> torch.Tensor | None:
    """The tensor of a MetaTensor or array, floating numbers as float32; None for None."""
    if x is None:
        return None
    found = x.as_tensor() if isinstance(x, MetaTensor) else torch.as_tensor(x)
    return (found.float() if found.is_floating_point() else found).contiguous()


def applied(step: Step, data: dict[str, Any], case: str) -> dict[str, Any]:
    """What a step makes of a sample; an error of the transform is one line that names case and step."""
    try:
        found = step.transform(data)
    except Exception as error:
        where = f"{case}: " if case else ""
        raise SslMedError(f"{where}{step.name} cannot be applied: {_cause(error)}") from None
    if not isinstance(found, Mapping) or "image" not in found:
        raise SslMedError(
            f"{step.name} gives no dictionary with 'image'; use a dictionary transform, whose name ends in d"
        )
    return dict(found)


def _cause(error: BaseException) -> str:
    """MONAI wraps what went wrong in 'applying transform ...'."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = first_line(error)
    return said if said == type(error).__name__ else f"{type(error).__name__}: {said}"


# --- randomness ------------------------------------------------------------------------------------------------------


def randomizables(transform: Any) -> list[Randomizable]:
    """Every object with a random state in a transform, itself included."""
    found: dict[int, Randomizable] = {}
    seen: set[int] = set()

    def walk(thing: Any) -> None:
        if id(thing) in seen or isinstance(thing, torch.Tensor | np.ndarray | str | bytes | type):
            return
        seen.add(id(thing))
        if isinstance(thing, Randomizable):
            found[id(thing)] = thing
        if isinstance(thing, Mapping):
            children: Any = thing.values()
        elif isinstance(thing, list | tuple | set):
            children = thing
        else:
            children = vars(thing).values() if isinstance(thing, Transform) else ()
        for child in children:
            walk(child)

    walk(transform)
    return list(found.values())


def is_random(transform: Any) -> bool:
    """Whether a transform draws anything; a plain Compose alone does not."""
    return any(type(one) is not Compose for one in randomizables(transform))


@contextmanager
def own_globals(*words: int) -> Iterator[None]:
    """The libraries' own generators, for transforms that use them: seeded within, and afterwards as they were."""
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


# --- building --------------------------------------------------------------------------------------------------------


def _steps(listed: TransformList, number: int, entry: Any) -> Iterator[Step]:
    """The transforms of an entry; those of a plain Compose one by one."""
    where = f"{listed.label}: entry {number}"
    transform = targets.build(entry, where, allow=listed.allow, variables=listed.variables)
    name = f"{where} ({type(transform).__name__})"
    if not isinstance(transform, MapTransform | Compose):
        targets.refuse_array(transform, name)
    for one in _flat(transform):
        yield Step(one, name if one is transform else f"{where} ({type(one).__name__} in {type(transform).__name__})")


def _flat(transform: Any) -> Iterator[Any]:
    if type(transform) is Compose:
        for child in transform.transforms:
            yield from _flat(child)
    else:
        yield transform
