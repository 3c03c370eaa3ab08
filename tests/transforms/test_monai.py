"""Our transforms in MONAI's form: its contract, and the batched functions' values."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader, MetaTensor, ThreadDataLoader
from monai.transforms import Compose, Flip, MapTransform, OneOf, RandFlipd, RandGaussianNoise, RandSpatialCrop, Rotate90
from monai.transforms.traits import LazyTrait
from monai.utils import set_determinism

from ssl_med.spec import SslMedError
from ssl_med.transforms import cells, corruptions, intensity, monai, patches, rotations, spatial
from ssl_med.transforms._monai import Interpolating, Keyed, Labelled, Rand

MODULES = (cells, corruptions, intensity, patches, rotations, spatial)
# public functions that no class of `monai` names: parts of those that are named, and what MONAI has itself
PARTS = {
    "cells": "apply_arrangement split_cells",
    "corruptions": "apply_maps apply_paint apply_shuffle apply_swaps one_of",  # MONAI's OneOf
    "intensity": "apply_blur apply_brightness_contrast apply_curve apply_gamma apply_noise apply_solarize",
    "patches": "cut",
    "rotations": "rotate",
    "spatial": "apply_crop apply_displacement apply_flip_rot apply_rotation",
}
SETTINGS = {
    "RandPooledPixelShuffle": {"pool": 3},
    "RandContextSwap": {"patch": 3},
    "RandPatchShuffle": {"side": 2, "rotate": True},
    "RandCellMask": {"side": 2},
    "RandSmoothDeformation": {"magnitude": 2.0},
    "RandJigsaw": {"grid": 2, "permutations": 20},
    "RandSolarize": {"threshold": 0.3},
}
ARRAYS = [name for name in monai.__all__ if name != "FromMonai" and not issubclass(getattr(monai, name), Keyed)]
SHAPES = {2: (18, 18), 3: (18, 18, 12)}
SEED = 7  # with which every transform does something
AFFINE = torch.tensor([[0.0, 0, 2, -7], [-0.5, 0, 0, 3], [0, 1.5, 0, 11], [0, 0, 0, 1]], dtype=torch.float64)
SWEEP = pytest.mark.parametrize(("name", "dims"), [(name, dims) for name in ARRAYS for dims in (2, 3)])


def make(name, **more):
    keyed = {"keys": ("image", "other")} if name.endswith("d") and name not in ARRAYS else {}
    return getattr(monai, name)(**keyed, **SETTINGS.get(name if name in ARRAYS else name[:-1], {}), **more)


def image(dims=3, channels=2, seed=1):
    return torch.rand(channels, *SHAPES[dims], generator=torch.Generator().manual_seed(seed))


def drawn(seed):
    """The generator that a transform with this random state must hand to its function."""
    state = np.random.RandomState(seed)
    state.rand()
    return torch.Generator().manual_seed(int(state.randint(np.iinfo(np.int64).max, dtype=np.int64)))


def reference(name, x, generator):
    """The batched function on the batch of one, called as its own module says."""
    dims, settings = x.ndim - 1, {**SETTINGS.get(name, {})}
    if name == "RandPooledPixelShuffle":
        maps = corruptions.shuffle_maps(3, x.shape[1:], torch.Generator().manual_seed(0), windows=1000)
        return corruptions.pooled_shuffle(x[None], generator, maps=maps, p=1)[0]
    if name == "RandTurn":
        found = rotations.rotations_of(x.shape[1:])
        return rotations.rotate(x[None], found[int(torch.randint(0, len(found), (1,), generator=generator))])[0]
    if name == "RandJigsaw":
        order = patches.permutation_set(2**dims, 20, seed=0)[torch.randint(0, 20, (1,), generator=generator)]
        grid = patches.make_grid(x.shape[1:], (2,) * dims, jitter=0.15)
        cut = patches.cut(x[None], patches.sample_corners(1, grid, generator), grid.patch)
        return patches.permute(patches.standardize(cut), order)[0]
    for key in {"patch", "side"} & settings.keys():
        settings[key] = (settings[key],) * dims
    function = getattr(monai, name).offers
    if name != "RandFlipAxes" and "p" in inspect.signature(function).parameters:
        settings["p"] = 1
    result = function(x[None], generator, **settings)
    return (result[0] if isinstance(result, tuple) else result)[0]


def test_every_transform_is_offered_in_both_forms():
    for module in MODULES:
        public = {
            key
            for key, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__ == module.__name__
            and not key.startswith("_")
            and next(iter(inspect.signature(function).parameters)) in ("x", "patches")
        }
        offered = {getattr(monai, name).offers for name in ARRAYS}
        offered = {f.__name__ for f in offered if f.__module__ == module.__name__}
        parts = set(PARTS[module.__name__.rpartition(".")[2]].split()) | {"fold", "standardize"}
        assert public - parts == offered, module
    forms = {name for name in monai.__all__ if name != "FromMonai"}
    assert forms == {form for name in ARRAYS for form in (name, f"{name}d")}
    for name in ARRAYS:
        array, keyed = getattr(monai, name), getattr(monai, f"{name}d")
        assert issubclass(keyed, MapTransform)
        assert keyed.__bases__ == (Keyed, array)
        assert array.__doc__
        assert next(iter(inspect.signature(keyed).parameters)) == "keys"


@pytest.mark.parametrize("name", [name for name in ARRAYS if not issubclass(getattr(monai, name), Labelled)])
def test_settings_and_defaults_are_the_functions_own(name):
    array = getattr(monai, name)
    theirs = inspect.signature(array.offers).parameters
    for field in dataclasses.fields(array):
        if field.name in {f.name for f in dataclasses.fields(Interpolating)} | {"pool", "pool_seed"}:
            continue
        if name == "RandPooledPixelShuffle" and field.name == "windows":  # of the function that draws the pool
            continue
        default = theirs[field.name].default
        assert field.default == (dataclasses.MISSING if default is inspect.Parameter.empty else default), field.name
    acts = theirs["p"].default if "p" in theirs and name not in ("RandFlipAxes",) else 1.0
    assert array.__dataclass_fields__["prob"].default == acts


@SWEEP
def test_values_are_those_of_the_batched_function_in_every_form(name, dims):
    x = image(dims)
    before = x.clone()
    expected = reference(name, x, drawn(SEED))
    array, keyed = make(name, prob=1.0), make(f"{name}d", prob=1.0)
    y = array.set_random_state(SEED)(x)
    assert torch.equal(y, expected)
    assert not (y.shape == x.shape and torch.equal(y, x))
    assert torch.equal(array(x, randomize=False), expected)
    assert torch.equal(make(name, prob=1.0).set_random_state(state=np.random.RandomState(SEED))(x.numpy()), expected)
    data = {"image": x, "other": x.numpy(), "name": "a"}
    d = keyed.set_random_state(SEED)(data)
    assert torch.equal(d["image"], expected)
    assert torch.equal(d["other"], expected)
    assert d["name"] == "a"
    assert data["image"] is x
    assert torch.equal(x, before), "the input was changed"
    often = make(f"{name}d", prob=0.5).set_random_state(SEED)
    others = [often(data)["image"] for _ in range(6)]
    assert {tuple(other.shape) for other in others} == {tuple(expected.shape)}
    assert not all(torch.equal(other, expected) for other in others)
    assert not isinstance(array, LazyTrait)


@SWEEP
def test_meta_data_are_kept_and_no_chance_changes_nothing(name, dims):
    x = MetaTensor(image(dims), affine=AFFINE, meta={"filename_or_obj": "a.nii"})
    y = make(name, prob=1.0).set_random_state(SEED)(x)
    assert torch.equal(x.affine, AFFINE)
    if name == "RandJigsaw":
        assert not isinstance(y, MetaTensor)
        return
    assert y.meta["filename_or_obj"] == "a.nii"
    geometric = getattr(monai, name).source is not Rand.source
    assert torch.equal(y.affine, AFFINE) != geometric
    still = make(f"{name}d", prob=0.0, allow_missing_keys=True)({"image": x})["image"]
    assert torch.equal(still, x)
    assert torch.equal(still.affine, AFFINE)
    if getattr(monai, name).in_unit_range:
        with pytest.raises(SslMedError, match=rf"{name} needs intensities in \[0, 1\], this image has .* to 400"):
            make(name, prob=1.0)(x * 400 / x.max())
    else:  # a label map, or stored values
        assert float(make(name, prob=1.0).set_random_state(SEED)(x * 400).max()) > 100


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", [n for n in ARRAYS if getattr(monai, n).source is not Rand.source])
def test_the_affine_says_where_voxels_come_from(name, dims):
    """An image that holds its own position in space holds it afterwards, by the new affine."""

    def positions(affine, shape):
        index = torch.stack(torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in shape), indexing="ij"))
        return (affine[:, :dims] @ index.flatten(1) + affine[:, -1:])[:3].view(3, *shape)

    shape = (18, 18, 12)[:dims] if dims == 2 else (18, 18, 18)
    x = MetaTensor(positions(AFFINE, shape), affine=AFFINE)
    for seed in range(8):
        y = make(name, prob=1.0).set_random_state(seed)(x)
        error = (y.as_tensor() - positions(y.affine, y.shape[1:])).abs()
        if issubclass(getattr(monai, name), Interpolating):  # the border repeats
            error = error[(slice(None), *[slice(s // 4, -(s // 4)) for s in shape])]
        assert float(error.max()) < 2e-4


def test_the_affine_is_that_of_monai():
    x = MetaTensor(image(3, 1)[:, :, :, :10], affine=AFFINE)
    for seed in range(12):
        flip = monai.RandFlipRot(rotations=True).set_random_state(seed)
        y, params = flip(x), flip.draw(x.shape[1:], flip._generator(x))
        theirs = Compose([Flip([a for a in range(3) if params.flips[0, a]] or None)] if params.flips.any() else [])(x)
        theirs = Rotate90(int(params.turns))(theirs)
        assert torch.equal(y.as_tensor(), theirs.as_tensor())
        assert torch.allclose(y.affine, theirs.affine, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in ARRAYS if issubclass(getattr(monai, n), Interpolating)])
@pytest.mark.parametrize("dims", [2, 3])
def test_label_maps_are_moved_with_their_image(name, dims):
    """Nearest neighbours: no new label appears, and where the linear form is sure of a label, both agree."""
    x = (image(dims, 1, seed=3) > 0.5).float()
    x = torch.nn.functional.interpolate(x[None], scale_factor=2)[0]  # blobs of two voxels
    labels = (x * 7).to(torch.int64)
    settings = SETTINGS.get(name, {})
    both = getattr(monai, f"{name}d")(keys=("image", "label"), mode=("bilinear", "nearest"), **settings)
    d = both.set_random_state(2)({"image": x, "label": labels})
    assert d["label"].dtype == torch.int64
    assert set(d["label"].unique().tolist()) == {0, 7}
    sure = (d["image"] < 0.02) | (d["image"] > 0.98)
    assert float(sure.float().mean()) > 0.1
    assert float(((d["image"] > 0.5) == (d["label"] > 0))[sure].float().mean()) > 0.995
    with pytest.raises(SslMedError, match="must be 'bilinear' or 'nearest'"):
        getattr(monai, name)(mode="cubic", **settings)
    with pytest.raises(ValueError, match="length"):
        getattr(monai, f"{name}d")(keys="image", mode=("nearest", "nearest"), **settings)


def test_pretext_tasks_tell_their_label():
    x = image(3, 1)
    seen = set()
    turn = monai.RandTurnd("image", label_key="y").set_random_state(0)
    for _ in range(40):
        d = turn({"image": x})
        seen.add(d["y"])
        assert torch.equal(d["image"], rotations.rotate(x[None], rotations.rotations_of(x.shape[1:])[d["y"]])[0])
    assert seen == set(range(6))
    still = monai.RandTurnd("image", prob=0)({"image": x})
    assert still["turn"] == 0
    puzzle = monai.RandJigsawd("image", grid=2, permutations=9, jitter=0, prob=0.5).set_random_state(1)
    orders, seen = patches.permutation_set(8, 9, seed=0), set()
    own = monai.RandJigsaw(grid=2, permutations=9, jitter=0, prob=0)(x)
    for _ in range(40):
        d = puzzle({"image": x})
        seen.add(d["order"] == 9)
        assert torch.equal(d["image"], own if d["order"] == 9 else own[orders[d["order"]]])
    assert seen == {True, False}


def pipeline():
    one_of = OneOf([monai.RandInPaintd("image"), monai.RandOutPaintd("image")])
    return Compose([monai.RandFlipAxesd("image"), monai.RandLocalPixelShuffled("image", prob=1, windows=20), one_of])


def test_in_compose_determinism_loaders_and_lazy_pipelines():
    data = [{"image": image(2, 1, seed=seed)} for seed in range(4)]
    try:
        set_determinism(3)
        first = [pipeline()(d)["image"] for d in data]
        set_determinism(3)
        assert all(torch.equal(a, pipeline()(d)["image"]) for a, d in zip(first, data, strict=True))
        seen = []
        for loader, workers, epochs in ((DataLoader, 0, 2), (DataLoader, 2, 1), (ThreadDataLoader, 0, 2)):
            for _ in range(2):
                set_determinism(3)
                cached = CacheDataset(data, pipeline(), progress=False)
                batches = loader(cached, batch_size=1, num_workers=workers)
                seen.append(torch.cat([torch.cat([b["image"] for b in batches]) for _ in range(epochs)]))
            assert torch.equal(seen[-1], seen[-2]), "the same seed must replay"
            different = {tuple(part.flatten().tolist()) for part in seen[-1]}
            assert len(different) == len(data) * epochs, "samples and epochs differ"
        assert torch.equal(data[0]["image"], image(2, 1, seed=0))
        # what is pending is carried out before ours
        parts = [RandFlipd("image", prob=1), monai.RandLocalPixelShuffled("image", prob=1, windows=20)]
        lazy, eager = (Compose(parts, lazy=lazy).set_random_state(1)(data[0])["image"] for lazy in (True, False))
        assert torch.allclose(lazy, eager, atol=1e-6)
    finally:
        set_determinism(None)


def test_a_bundle_names_it():
    config = {"t": {"_target_": "ssl_med.transforms.monai.RandContextSwapd", "keys": ["image"], "patch": [3, 2]}}
    y = ConfigParser(config).get_parsed_content("t")({"image": image(2)})["image"]
    assert not torch.equal(y, image(2))
    assert torch.equal(y.flatten(1).sort().values, image(2).flatten(1).sort().values)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: monai.RandGamma(prob=2), "RandGamma.prob is 2"),
        (lambda: monai.RandLocalPixelShuffled("image", windows=-1), "RandLocalPixelShuffled.windows is -1"),
        (lambda: monai.RandPaint(prob=1)(torch.rand(8, 8)), "put EnsureChannelFirst before it"),
        (lambda: monai.RandGamma(prob=1)(torch.full((1, 8, 8), torch.nan)), "this image has nan to nan"),
        (lambda: monai.RandPatchShuffle(side=5)(torch.rand(1, 8, 8)), "do not fill"),
        (
            lambda: monai.RandFlipAxesd(("a", "b"))({"a": torch.rand(1, 8, 8), "b": torch.rand(1, 8, 9)}),
            "their shapes differ",
        ),
    ],
)
def test_bad_input_is_one_line(build, words):
    with pytest.raises(SslMedError, match=words.replace("[", r"\[")) as error:
        build()
    assert "\n" not in str(error.value)


def test_missing_keys():
    with pytest.raises(KeyError, match="image"):
        monai.RandGammad("image")({"other": image()})
    assert monai.RandGammad("image", allow_missing_keys=True)({"x": 1}) == {"x": 1}
    with pytest.raises(ValueError, match="keys"):
        monai.RandGammad([])


# --- the other direction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_a_monai_transform_serves_a_method(dims):
    x = torch.stack([image(dims, 1, seed=seed) for seed in range(3)])
    before = x.clone()
    inner = RandGaussianNoise(prob=1.0, std=0.3)
    theirs = Compose([inner])
    state = inner.R.get_state()[1].copy()
    ours = monai.FromMonai(theirs)
    y = ours(x, torch.Generator().manual_seed(4))
    assert type(y) is torch.Tensor
    assert y.shape == x.shape
    assert torch.equal(x, before)
    assert (inner.R.get_state()[1] == state).all()
    assert torch.equal(y, ours(x, torch.Generator().manual_seed(4)))
    assert len({float(part) for part in (y - x).flatten(1).sum(1)}) == 3
    g = torch.Generator().manual_seed(4)
    assert torch.equal(y, torch.cat([ours(part[None], g) for part in x]))
    seed = int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(4)))
    assert torch.equal(y[0], Compose([RandGaussianNoise(prob=1.0, std=0.3)]).set_random_state(seed)(x[0]).as_tensor())
    keyed = monai.FromMonai(monai.RandInPaintd("image"), key="image")
    mixed = corruptions.one_of(x, torch.Generator().manual_seed(1), transforms=[ours, keyed])
    assert mixed.shape == x.shape


def test_what_gives_no_batch_is_refused():
    x, g = torch.rand(6, 1, 12, 12), torch.Generator().manual_seed(0)
    with pytest.raises(SslMedError, match="images of different shapes"):
        monai.FromMonai(RandSpatialCrop(4, random_size=True))(x, g)
    with pytest.raises(SslMedError, match="gave dict instead of one image: a dictionary transform needs key=NAME"):
        monai.FromMonai(lambda image: {"image": image})(x, g)
